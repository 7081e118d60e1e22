// Package trace records what the health collectors say, and plays a record
// through the predictor again: what would it have said, when, and why.
//
// It owns the format of a trace, its files, and the plot. It reads no hardware
// and no clock, and changes nothing: ssm/node writes traces (health.trace in the
// configuration), `shadowctl health replay` reads them.
//
// # Format, version 1
//
// A trace is a directory of files DAY.jsonl (2026-11-27.jsonl, UTC), each a
// sequence of JSON objects, one a line, in the order of time. Other files are
// not looked at. A line is one of
//
//	{"start":{"version":1,"node":"ams","boot":"6a1f...","at":1764230400000,"policy":{...}}}
//	{"series":{"n":1,"source":"hwmon","device":{"class":"thermal","serial":"coretemp@0/temp1"},
//	           "signal":"thermal.temperature","kind":"level","unit":"celsius","limits":[null,null,84,100]}}
//	{"at":1764230400125,"values":[[1,55],[2,null,"timed out"],[3,1,"EXT4-fs error ..."]]}
//
// start begins every file and every life of the daemon; boot is the kernel's
// boot id, with another one counters begin anew. policy (hwhealth.Policy, times
// in nanoseconds) is what turned risks into states. series numbers a signal of a
// part until the next start; the same number again replaces it. limits are low
// critical, low warning, high warning, high critical. values are a reading: the
// number of the series, its value or null where the source could not say, and a
// text: why not, or what the event said. Times are Unix milliseconds.
//
// A last line without its end (the power went) is not looked at.
package trace
