package swanctl

import "strings"

// keyKind says how a setting travels in vici messages.
type keyKind uint8

const (
	scalar keyKind = iota
	listed         // comma-separated in the file, a list in vici
	blobs          // names of files in the file, a list of their contents in vici
)

// Settings of swanctl.conf(5), strongSwan 5.9 and 6.0, by section.
var (
	connKeys = keySet(`version remote_port local_port aggressive pull dscp encap mobike dpd_delay dpd_timeout
		fragmentation childless send_certreq send_cert ppk_id ppk_required keyingtries unique reauth_time rekey_time
		over_time rand_time if_id_in if_id_out mediation mediated_by mediation_peer ocsp`,
		`local_addrs remote_addrs proposals vips pools`, "")

	authKeys = keySet(`round auth id eap_id aaa_id xauth_id ca_id revocation`, `groups cert_policy`, `certs cacerts pubkeys`)

	certKeys = keySet(`file handle slot module`, "", "")

	authorityKeys = keySet(`cacert file handle slot module cert_uri_base`, `crl_uris ocsp_uris`, "")

	childKeys = keySet(`sha256_96 rekey_time life_time rand_time rekey_bytes life_bytes rand_bytes rekey_packets
		life_packets rand_packets updown hostaccess mode policies policies_fwd_out dpd_action ipcomp inactivity reqid
		priority interface mark_in mark_in_sa mark_out set_mark_in set_mark_out if_id_in if_id_out label label_mode
		tfc_padding replay_window hw_offload copy_df copy_ecn copy_dscp start_action close_action`,
		`ah_proposals esp_proposals local_ts remote_ts`, "")
)

func keySet(scalars, lists, files string) map[string]keyKind {
	m := map[string]keyKind{}
	for _, k := range strings.Fields(scalars) {
		m[k] = scalar
	}
	for _, k := range strings.Fields(lists) {
		m[k] = listed
	}
	for _, k := range strings.Fields(files) {
		m[k] = blobs
	}
	return m
}
