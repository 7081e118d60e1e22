// Package bench replays recorded drives through hwhealth/drive and scores the
// alarms.
//
// It owns the benchmark's file format, the replay protocol (rows in time order
// plus a tick every 24 hours of drive time, no look-ahead, state starts
// empty), the scorer and the report. It never fits anything, and never shows a
// label (last_hour, max_date, n_records, rows, failed) to the predictor.
// shadowctl hwhealth bench and hwhealth/fit call it.
//
// Data flows drive by drive: Reader -> Replay -> alarm intervals -> Scorer, so
// memory does not grow with the number of rows.
package bench
