// Package hwhealth predicts that this appliance will fail, and says why.
//
// It owns what is known about the machine's parts: per-signal evidence with
// age, the hazard model, latched hard limits, and the state (normal, watch,
// degraded, draining, withdraw) that the routes follow. It never reads a file
// or a clock, never opens a socket and never changes a route: hwhealth/collect
// reads the machine, ssm/node feeds the state to the core.
//
// Data flow:
//
//	collectors ──Sample──► Predictor.Observe(sample, now)
//	                       Predictor.Assess(now) ──► Assessment ──► ssm.EvStanding, API, metrics
//
// # What a collector must do
//
// A collector turns a source into Samples, and nothing more. In particular it
// sends raw values: no rates, no averages, no thresholds, no guesses. All of
// that is here, once, tested in virtual time.
//
//   - Device says which part: Class and a Serial that survives a reboot and is
//     not shared (a disk's or module's serial number, a PCI address, a
//     permanent MAC; a name such as cpu0 or fan2@0000:00:1f.4 where nothing
//     better exists). Evidence and latches are kept under (Class, Serial).
//     Model and Vendor choose base hazards; Name is for people (sda, eth0);
//     Redundant names the group of parts that stand in for each other (the
//     md array, the bond, the pair of power supplies), "" if alone.
//   - Signal is one of the constants of signals.go, whose table fixes Unit and
//     Kind. Signals that the table does not know are kept as figures (they
//     show up in metrics) and carry no hazard. SMART attributes are
//     SignalSMART(id), raw value as the drive says it, 188 unmasked.
//   - A counter is the running total as the source shows it. Resets, wraps,
//     gaps and baselines are dealt with here. A level is the value now. An
//     event is "this happened": Value is how many times (1).
//   - Limits are the part's own limits (module EEPROM, hwmon _max and _crit),
//     in the sample's unit; NaN in what is not known (use NoLimits()).
//   - Nothing to say is a sample too: Missing with a Why ("smartctl: timed out
//     after 20 s"), Value ignored. A device that was there and is gone: Signal
//     Gone, Value 1. A value that cannot be true (-128 degrees, 65535 RPM, not a
//     number) is Missing, not clipped; Observe refuses non-finite values
//     anyhow.
//   - At is when the value was read. Samples of one device should come in the
//     order of their At; a late one is ignored.
//
// Observe never fails and Assess is cheap enough for every few seconds.
package hwhealth
