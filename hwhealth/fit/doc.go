// Package fit makes the hazard table of hwhealth/drive from a benchmark.
//
// It owns the list of candidate terms, the estimation and the choice of the
// operating points. It looks at the drives of folds 5-9 only; 3-4 stay for
// validation and 0-2 for blind judgement.
//
// A drive is judged by its worst moment, as an alarm that is kept judges it:
// the probability that a drive dies within its record is 1 - exp(-max_t L(t)),
// for failed drives with t at least 24 h before the end. Hazards are fitted to
// that likelihood by expectation maximisation for the noisy-OR: given the worst
// moments, each failure is shared out over the terms that held, in proportion;
// a hazard is the failures it got over the drives that were judged with it
// (plus Sparsity drives, an exponential prior that removes terms which explain
// nothing of their own); then the worst moments are looked for again. Hazards
// stay above zero by construction, so that no evidence can excuse a drive.
//
// The pace, the base hazards and the rates at the operating points come from
// predictions for drives that the fit did not see: five-fold cross-validation.
package fit
