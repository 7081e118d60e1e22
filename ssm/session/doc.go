// Package session knows what a session is and what has to be told about it.
//
// It owns three things:
//
//   - Document, the session as one JSON document, lossless enough to rebuild the
//     session in an empty charon;
//   - Ledger, the owner's view of the sessions of one slot: it digests the HA
//     datagrams of the active charon and decides when an exchange is complete
//     (exchange commit), so that what it publishes is always a state in which
//     the client and the gateway agree;
//   - Feeder, a shadow's memory of what its twin charon has been told, which
//     turns documents into the fewest datagrams, in an order the twin accepts.
//
// It never starts a goroutine, reads a clock, opens a socket or writes a log:
// time comes in as an argument, decisions go out as values. Its types are not
// safe for concurrent use; one goroutine owns each of them.
//
// Callers: the slot runtimes of ssm/node own one Ledger for each active slot and
// one Feeder for each dormant one; ssm/replica carries documents between them.
//
// Data flow on an owner:
//
//	charon --HA datagrams--> Ledger.Apply  -+
//	steering ring --headers-> Ledger.Header -+-> Changes --> ssm/replica --> shadows
//	clock --------> Ledger.Tick             -+-> Feed ----> the local charon (after a takeover)
//
// and on a shadow:
//
//	ssm/replica --documents--> Feeder.Diff --datagrams--> the twin charon
//
// # Document
//
// Compact JSON, keys in this order, no insignificant white space, so that equal
// documents have equal octets:
//
//	v                   1; absent in documents of other systems ("external")
//	session_id          the IKE SPIs of the first generation, spi_i_spi_r; it
//	                    stays the same over rekeys
//	slot, tier, rev     the slot; the shadowing tier; a number that rises with
//	                    every change the owner publishes
//	client_ip, client_internal_ip, crypto_params, esp_params, seq_number,
//	port_data, source_ips
//	                    a summary under the names of the specification, derived
//	                    from what follows; nothing is ever fed from it
//	ike                 the generations of the IKE_SA, oldest first: the live one
//	                    last, before it the ancestors a child still derives from
//	children            the CHILD_SAs, in the order of their birth
//	pending             exchanges that are not committed yet
//
// esp_params.esp_key is always empty: HA datagrams carry no ESP key. charon
// derives it from the SK_d of the generation named by children[].ike and the
// nonces (and DH secret, with PFS) in children[].add; both are in the document.
// crypto_params.shared_secret is the Diffie-Hellman secret of the live generation.
//
// An attribute is {"t":"NONCE_I","v":"<base64>"}: the version-independent name
// and exactly the octets that follow the attribute number on the wire. Lists of
// attributes keep their order. docs/session.schema.json is the JSON Schema.
//
// json.Marshal of a Document redacts every secret and such a document is
// refused by Decode; EncodeSecret is the lossless form.
// Pack and Unpack are the same in fewer octets, for other appliances.
package session
