// Package docs holds the procedures that tests carry out as they are written.
package docs

import _ "embed"

// Operations is operations.md.
//
//go:embed operations.md
var Operations string

// Install is install.md.
//
//go:embed install.md
var Install string
