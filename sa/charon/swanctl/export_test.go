package swanctl

// WriteCert is for the external tests.
var WriteCert = writeCert
