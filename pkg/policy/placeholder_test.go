package policy

import (
	"net/netip"
	"testing"
)

func TestAnExampleGoesToTheResource(t *testing.T) {
	o := Options{Vocabulary: nil, Resolved: map[string][]netip.Addr{"db.internal": {netip.MustParseAddr("10.1.1.1")}}}
	e, err := o.Compile(mustParse(t, `version: 1
resources:
  - {name: address, protocol: sqlish, hosts: ["10.0.3.7:5432"]}
  - {name: range, protocol: sqlish, hosts: ["10.9.0.0/16:5432"]}
  - {name: named, protocol: sqlish, hosts: ["db.internal:5433"]}
  - {name: unresolved, protocol: sqlish, hosts: ["gone.internal:5434"]}
  - {name: below, protocol: sqlish, hosts: ["*.example.com:443"]}
  - {name: datagrams, protocol: udp, hosts: ["10.0.3.7:514"]}
  - {name: sockets, protocol: unix, paths: [/run/x.sock]}
  - {name: questions, protocol: dns, names: ["*"]}
  - {name: server, protocol: dns, names: ["*"], servers: ["10.0.0.53:53"]}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"address", "range", "named", "unresolved", "below", "datagrams"} {
		p, ok := e.Example(name)
		r, found := e.ResourceOf(&p)
		if !ok || !found || r.Name != name {
			t.Errorf("%s: %+v is of %q", name, p, r.Name)
		}
	}
	for name, want := range map[string]string{"questions": "192.0.2.1:53", "server": "10.0.0.53:53"} {
		if p, ok := e.Example(name); !ok || p.Target.String() != want {
			t.Errorf("%s: %+v", name, p)
		}
	}
	for _, name := range []string{"sockets", "nobody"} {
		if p, ok := e.Example(name); ok {
			t.Errorf("%s is at %+v", name, p)
		}
	}
}
