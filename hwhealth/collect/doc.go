// Package collect reads what the machine says about itself and turns it into
// hwhealth.Samples.
//
// It owns the readers, their schedule and their deadlines. It never judges a
// value: rates, baselines, thresholds and states are package hwhealth's. What
// it does decide is whether a value can be true at all; one that cannot (-128
// degrees, 65535 RPM, an alarm whose limits are not set) is sent as missing,
// with the reason.
//
//	/sys /proc /dev, netlink, smartctl, ipmitool, ssm/peer, bgp
//	      │ Source.Read every Source.Every, or Stream.Follow
//	      ▼
//	Runner ──[]hwhealth.Sample──► the function it was given
//
// The sub-packages hold what is pure: smart (smartctl's JSON and text, the NVMe
// log page), module (transceiver EEPROMs by SFF-8472, SFF-8636 and CMIS), ipmi
// (sensor lists), sysfs (small files). Every path starts at Roots, so that
// tests and the lab point the same readers at another tree.
//
// Rules for every reader:
//   - A part that cannot be read is a missing sample with the reason, never a
//     skipped one, never a zero, never an error that stops the others.
//   - A part that was there and is not any more is hwhealth.Gone, provided that
//     the list of parts itself could be read.
//   - No reader forks in a loop: smartctl runs every 30 minutes per disk (NVMe
//     drives are asked by ioctl), ipmitool only where it is configured.
//   - No reader blocks another: each has a deadline, and one that does not come
//     back is reported and left out until it does.
package collect
