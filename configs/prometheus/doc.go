// Package prometheus holds the alert rules of a fleet, alerts.yaml, and the promtool
// tests in which each of them fires, alerts_test.yaml. The package has no code: its
// test checks that the files agree with the program, the runbook and the dashboard.
package prometheus
