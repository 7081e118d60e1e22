// Package audit compares the three places where a slot's sessions exist: what the
// daemon remembers (documents), what charon holds (list-sas) and what the kernel
// holds (a dump of SAs). They are read at different moments and change meanwhile, so
// that only a difference that a second look confirms counts.
//
// It owns the comparison and the choice of one session to repair. It never talks to
// charon or the kernel and changes nothing; ssm/node looks, and repairs.
//
// Called by: ssm/node, for each slot that is owned or shadowed here. Data flows:
//
//	documents, list-sas, dump -> Compare -> Confirm -> differences -> Choose -> one repair
package audit
