// Package packaging holds what scripts/deb.sh builds the Debian package with: nfpm's
// recipe, the maintainer scripts, and the module file of nfpm itself (tools.mod),
// which keeps its dependencies out of the program's. The package has no code; its
// test builds a package and looks into it.
package packaging
