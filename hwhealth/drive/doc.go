// Package drive judges one rotating drive by its SMART counters.
//
// It owns the drive's history in constant memory, the hazard table with its
// grammar of terms, and the alarm with hold. It never reads a drive, a file or
// a clock: times are hours on the drive's own power-on clock, given by the
// caller. hwhealth uses it for the disks of this machine, hwhealth/bench replays
// recorded drives through the same code, hwhealth/fit makes the table.
//
// The model is additive:
//
//	L   = sum of the hazards of the terms that hold        (failures over the drive's life)
//	R30 = 1 - exp(-(base + pace(age of the newest growth) * L))   (within 30 days)
//
// which is the noisy-OR 1 - prod(1 - p_k) with p_k = 1 - exp(-l_k). A term's
// share of the cause is l_k / L. Hazards are never negative and most terms are
// cumulative ("187 >= 1", "187 >= 2", ...), so that more of a counter can never
// make a drive look better. L answers "is this drive condemned?", the pace "how
// soon?": evidence that still grows is five times as urgent as old evidence of
// the same weight.
package drive
