package config

import "github.com/shadowcast/shadowcast/configs"

// Example is an annotated configuration that Parse accepts.
func Example() string { return configs.Example }
