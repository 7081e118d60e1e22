// Package shadowset chooses the appliances that shadow a slot.
//
// It owns the choice and its explanation: a pure function of what is known of
// the owner and the other appliances, the same for equal input in any order. It
// never looks at the network and never applies what it chose.
//
// Failure domains come first: as few of them as possible are shared among the
// owner and its shadows, whatever the scores say. Among the sets that share
// equally little a greedy choice maximises the score, and what is chosen
// already stays until another set is better by a margin, so that noise in
// measurements moves no twin.
//
// Package config calls it for slots whose shadows the configuration does not
// name; ssm/node calls it to explain and to compare with what is measured now.
package shadowset
