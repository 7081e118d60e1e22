// Package operator serves the operator API (shadowcast.v1) of one appliance on a
// local unix socket, optionally over TCP too, and keeps the appliance's event log.
//
// It owns the socket, who may ask what (peer credentials, roles), paging, the mapping of
// errors to status codes, the audit of mutating calls, and the bounded log of
// events. It decides nothing about slots or sessions: it asks the small
// interfaces of Backend, which the appliance shell (ssm/node) implements and
// package operatortest fakes. cmd/shadowcastd runs it as one task; cmd/shadowctl
// and the lab are its clients.
//
// Data flows in two directions: questions go from the socket to the Backend, and
// everything that happens is added to Events, which writes it to slog and to all
// who watch. A slow watcher costs nothing: the log is a ring, a watcher is a
// position in it, and one that falls behind is told how much it missed.
package operator
