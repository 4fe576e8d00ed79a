package policy

import "slices"

func (c *compiler) compileResources(f *File) {
	for i, s := range f.syntax.Resources {
		at := index("resources", i)
		r := &resource{
			Resource: Resource{
				Name: s.Name, Protocol: s.Protocol, Credential: s.Credential,
				TLS: TLS{Verify: s.TLS.Verify, CA: s.TLS.CA, ServerName: s.TLS.ServerName, Agent: s.TLS.Agent},
			},
			kind:  kindOf(s),
			paths: slices.Clone(s.Paths),
		}
		r.Uninspected = r.kind.static()
		if r.TLS.Verify == TLSFull && r.TLS.CA == "" {
			r.TLS.CA = "system"
		}
		if !c.speaks(s.Protocol) {
			c.bad(f, at+".protocol", "resource %s: unknown protocol %q", s.Name, s.Protocol)
		}
		c.compileHosts(f, at, s, r)
		c.engine.resources = append(c.engine.resources, r)
	}
}

func (c *compiler) compileHosts(f *File, at string, s resourceSyntax, r *resource) {
	for j, text := range s.Hosts {
		h, err := parseResourceHost(text)
		if err != nil {
			c.bad(f, index(at+".hosts", j), "host %q: %v", text, err)
			continue
		}
		r.hosts = append(r.hosts, h)
	}
	for j, text := range s.Names {
		p, err := parseNamePattern(text)
		if err != nil {
			c.bad(f, index(at+".names", j), "name %q: %v", text, err)
			continue
		}
		r.asked.add(p)
	}
	for j, text := range s.Servers {
		server, err := parseServer(text)
		if err != nil {
			c.bad(f, index(at+".servers", j), "server %q: %v", text, err)
			continue
		}
		r.servers = append(r.servers, server)
	}
}

// speaks reports whether a resource may have a protocol.
func (c *compiler) speaks(protocol string) bool {
	switch protocol {
	case protocolTCP, protocolUDP, protocolUnix:
		return true
	}
	_, known := c.Vocabulary[protocol]
	return known || c.Vocabulary == nil
}
