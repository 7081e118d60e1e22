package session

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa/charon"
)

var update = flag.Bool("update", false, "rewrite golden files")

// goldenDoc is a session with an ancestor, two children and a pending exchange.
func goldenDoc(t testing.TB) *Document {
	w := newOwner(t)
	w.Ledger = New(testSlot, WithTier(func(connection, identity string) string {
		if connection == "rw" && identity == "c1@example" {
			return "premium"
		}
		return "basic"
	}), WithRetransmit(time.Second))
	r, _ := w.connect(1)
	n := ref(ikeID(2), false)
	w.apply(midR(r, 3), ikeAdd(n, &r), ikeDelete(r), ikeUpdate(n, "203.0.113.9:40000"), midR(n, 1), childAdd(n, false, inSPI(2)), midR(n, 2))
	w.Sample(inSPI(2), 1<<32+5)
	if _, err := w.Deadlines(inSPI(2), at(time.Hour), at(time.Hour+6*time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.IKEDeadlines(n.ID, at(4*time.Hour), at(24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	w.now = at(1500 * time.Millisecond)
	w.apply(childAdd(n, false, inSPI(3)))
	return w.doc(r)
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := "testdata/" + name
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := must(os.ReadFile(path)); !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

func TestClient(t *testing.T) {
	if conn, id, ok := goldenDoc(t).Client(); conn != "rw" || id.String() != "c1@example" || !ok {
		t.Errorf("%q, %s, %t", conn, id, ok)
	}
	if conn, id, ok := (&Document{}).Client(); conn != "" || id.Data != nil || ok {
		t.Errorf("%q, %s, %t of a document without content", conn, id, ok)
	}
}

func TestGolden(t *testing.T) {
	d := goldenDoc(t)
	b := must(d.EncodeSecret())
	golden(t, "session.json", b)
	golden(t, "redacted.json", must(json.Marshal(d)))
	back := must(Decode(must(os.ReadFile("testdata/session.json"))))
	if !reflect.DeepEqual(back, d) {
		t.Error("decoding the golden document gives another one")
	}
	if d.Tier != "premium" {
		t.Errorf("tier %q", d.Tier)
	}
}

func TestExternalDocument(t *testing.T) {
	d := must(Decode(must(os.ReadFile("testdata/spec.json"))))
	want := &Document{
		SessionID: "unique_session_identifier", ClientIP: "client's public IP", ClientInternalIP: "assigned internal IP",
		Crypto: CryptoParams{"AES-256", "Diffie-Hellman", "base64"}, ESP: ESPParams{"SHA256", "base64"}, SeqNumber: 12345,
		Ports: PortData{50000, 443}, SourceIPs: []string{"192.168.1.1", "10.0.0.5"},
	}
	if !d.External() || !reflect.DeepEqual(d, want) {
		t.Fatalf("got %+v", d)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, must(os.ReadFile("testdata/spec.json"))); err != nil || !bytes.Equal(compact.Bytes(), must(d.EncodeSecret())) {
		t.Errorf("%v: encoded as %s", err, must(d.EncodeSecret()))
	}
	if _, err := NewFeeder().Diff(d); err == nil {
		t.Error("an external document was fed")
	}
}

// No rendering but EncodeSecret shows key material.
func TestRedaction(t *testing.T) {
	d := goldenDoc(t)
	secret := must(d.EncodeSecret())
	var hidden []string
	for _, a := range d.Live().Add[0] {
		if a.Secret() {
			hidden = append(hidden, wireValue(a, true), fmt.Sprintf("%x", a.Value[2:]), fmt.Sprint(a.Value[2:]))
		}
	}
	hidden = append(hidden, d.Crypto.SharedSecret.wire(true))
	if len(hidden) != 7 || !bytes.Contains(secret, []byte(hidden[0])) {
		t.Fatal("the test looks for the wrong thing")
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "doc", d, "byvalue", *d, "crypto", d.Crypto, "gen", d.IKE[0], "effect", d.Pending[0].Effects[0], "attrs", d.Live().Add)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "doc", d, "byvalue", *d, "crypto", d.Crypto, "gen", d.IKE[0], "effect", d.Pending[0].Effects[0])
	out := []string{log.String(), fmt.Sprintf("%v %+v %#v %s %x", d, *d, d, d.Crypto, d.Crypto.SharedSecret), fmt.Sprintf("%v %+v %#v", d.IKE, d.Pending, d.Live().Add)}
	for _, v := range []any{d, *d, []*Document{d}, d.IKE, d.Pending, d.Live().Add, d.Crypto, Change{Doc: d}} {
		out = append(out, string(must(json.Marshal(v))))
	}
	for i, s := range out {
		for _, h := range hidden {
			if strings.Contains(s, h) {
				t.Errorf("rendering %d shows %s", i, h)
			}
		}
	}
	if _, err := Decode(must(json.Marshal(d))); err == nil || !strings.Contains(err.Error(), "redacted") {
		t.Errorf("a redacted document was decoded: %v", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := string(must(goldenDoc(t).EncodeSecret()))
	spec := string(must(must(Decode(must(os.ReadFile("testdata/spec.json")))).EncodeSecret()))
	cases := []struct{ name, from, old, new, want string }{
		{"unknown version", good, `"v":1`, `"v":2`, "$.v: unknown document version 2 (known: 1)"},
		{"version 0", spec, `{"session_id"`, `{"v":0,"session_id"`, "$.v: unknown document version 0"},
		{"unknown key", good, `"rev":`, `"revision":`, "$.revision: unknown key"},
		{"unknown key inside", good, `"esn":true`, `"esn":true,"x":1`, "$.children[0].x: unknown key"},
		{"own key in an external document", spec, `{"session_id"`, `{"slot":7,"session_id"`, "$.slot: unknown key"},
		{"key twice", good, `"slot":7`, `"slot":7,"slot":7`, "$.slot: key occurs twice"},
		{"key missing", good, `"client_ip":"203.0.113.9",`, ``, "$.client_ip: is missing"},
		{"key missing inside", good, `"mid_initiator":0,`, ``, "$.ike[0].mid_initiator: is missing"},
		{"wrong type", good, `"seq_number":4294967301`, `"seq_number":"1"`, "$.seq_number: is a string, want a number"},
		{"null", good, `"seq_number":4294967301`, `"seq_number":null`, "$.seq_number: is null, want a number"},
		{"port", good, `"client_port":40000`, `"client_port":70000`, "$.port_data.client_port: 70000 is no whole number of 16 bits"},
		{"fraction", good, `"rev":`, `"rev":0.5e1,"x":`, "$.rev:"},
		{"slot", good, `"slot":7`, `"slot":4096`, "$.slot: 4096 is no slot"},
		{"SPI", good, `"in_spi":"00700002"`, `"in_spi":"0070000G"`, "$.children[1].in_spi: parse ESP SPI"},
		{"SPI against attribute", good, `"in_spi":"00700002"`, `"in_spi":"00700009"`, "$.children[1].add: is about child 00700002"},
		{"child twice", good, `"in_spi":"00700002"`, `"in_spi":"00700002"`, ""},
		{"base64", good, `"t":"MODE","v":"Ag=="`, `"t":"MODE","v":"Ag"`, "$.children[0].add[6].v: is not base64"},
		{"attribute", good, `"t":"MODE"`, `"t":"MOOD"`, "$.children[0].add[6].t: unknown attribute MOOD"},
		{"attribute length", good, `"t":"MODE","v":"Ag=="`, `"t":"MODE","v":"AgI="`, "$.children[0].add: encode HA v5 CHILD_ADD: attribute MODE"},
		{"time", good, `"created":"2026-01-02T03:04:05Z"`, `"created":"2026-01-02T04:04:05+01:00"`, "$.children[0].created:"},
		{"party", good, `"by":"client"`, `"by":"nobody"`, "$.pending[0].by: is nobody"},
		{"effect", good, `"type":"CHILD_ADD"`, `"type":"MID_RESPONDER"`, "$.pending[0].effects[0].type: MID_RESPONDER is no effect"},
		{"initiator", good, `"initiator":false`, `"initiator":true`, "$.ike[0].add[0]: says initiator false"},
		{"rekey_of", good, `"rekey_of":{"spi_i":"1100000000000001"`, `"rekey_of":{"spi_i":"1100000000000009"`, "$.ike[1].rekey_of: differs from REKEY_ID"},
		{"redacted external", spec, `"esp_key":"base64"`, `"esp_key":"[redacted]"`, "$.esp_params.esp_key: is redacted"},
		{"no IKE_SA", good, `"ike":[`, `"ike":[],"x":[`, "$"},
		{"syntax", good, `"v":1`, `"v":`, "$: not valid JSON"},
		{"trailing data", good, `{"v":1`, `{} {"v":1`, "$: not valid JSON"},
		{"depth", good, `"slot":7`, `"slot":` + strings.Repeat("[", 40) + strings.Repeat("]", 40), "nested deeper"},
		{"nothing", good, good, `[]`, "$: is an array, want an object"},
	}
	for _, c := range cases {
		b := strings.Replace(c.from, c.old, c.new, 1)
		if !strings.Contains(c.from, c.old) {
			t.Errorf("%s: the document has no %s", c.name, c.old)
		}
		_, err := Decode([]byte(b))
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "decode session: "+strings.TrimSuffix(c.want, ":")) && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	big := bytes.Repeat([]byte(" "), MaxSize+1)
	if _, err := Decode(big); err == nil {
		t.Error("a document beyond MaxSize was read")
	}
	if _, err := Decode([]byte(`{"source_ips":[` + strings.Repeat("0,", maxNodes) + `0]}`)); err == nil || !strings.Contains(err.Error(), "values") {
		t.Errorf("too many values: %v", err)
	}
}

func TestDigest(t *testing.T) {
	d := goldenDoc(t)
	base := must(d.Digest())
	cases := []struct {
		name   string
		change func(*Document)
		same   bool
	}{
		{"rev", func(d *Document) { d.Rev++ }, true},
		{"pending", func(d *Document) { d.Pending = nil }, true},
		{"samples", func(d *Document) { d.SeqNumber++; d.Children[0].InSeq++ }, true},
		{"message ID", func(d *Document) { d.IKE[1].MIDResponder++ }, false},
		{"birth", func(d *Document) { d.Children[0].Birth.Base++ }, false},
		{"child", func(d *Document) { d.Children = d.Children[1:] }, false},
		{"secret", func(d *Document) {
			d.IKE[1].Add[0] = d.IKE[1].Add[0].merge(Attrs{chunk(charon.Secret, 99)})
		}, false},
	}
	for _, c := range cases {
		x := d.clone()
		c.change(x)
		if (must(x.Digest()) == base) != c.same {
			t.Errorf("%s: same digest %v, want %v", c.name, !c.same, c.same)
		}
	}
	if must(d.Digest()) != base {
		t.Error("a clone shares lists with its original")
	}
}

func FuzzDecode(f *testing.F) {
	for _, name := range []string{"spec.json", "session.json", "redacted.json"} {
		f.Add(must(os.ReadFile("testdata/" + name)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Decode(b)
		if err != nil {
			return
		}
		enc, err := d.EncodeSecret()
		if err != nil {
			if len(b) < MaxSize/8 { // escapes may make a document longer
				t.Fatal(err)
			}
			return
		}
		back, err := Decode(enc)
		if err != nil {
			t.Fatalf("%v\n%s", err, enc)
		}
		if !reflect.DeepEqual(back, d) || !bytes.Equal(must(back.EncodeSecret()), enc) {
			t.Fatalf("decoding %s changed it", enc)
		}
		if d.External() {
			return
		}
		// Whatever decodes can be adopted, taken over and fed.
		twin, l := newModel(), New(d.Slot)
		if _, err := l.Adopt([]*Document{d}); err != nil {
			t.Fatal(err)
		}
		l.Takeover(t0)
		fd := NewFeeder()
		twin.tell(must(fd.Diff(d)))
		for _, in := range l.Watches() {
			twin.tell(l.ESPSeen(in).Feed)
		}
		twin.tell(l.Tick(t0.Add(QuietTime)).Feed)
		for _, d := range l.Docs() {
			twin.tell(must(fd.Diff(d)))
		}
	})
}
