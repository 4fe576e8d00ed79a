package policy

import "slices"

// DefaultAgent is the agent of trees that were enrolled without naming one. It
// is there without being declared, so that rules may name it.
const DefaultAgent = "default"

// Agent is an enrolment rule: which processes are agents under a name.
type Agent struct {
	Name string
	// Users are names or numeric ids, as they were written.
	Users []string
	// Cgroups are paths below the mount point of cgroup2.
	Cgroups []string
}

// notEnrolled are the ways of enrolment that are understood but not built. A
// policy that uses one is refused: an agent that is silently not enrolled would
// be a hole.
var notEnrolled = []struct {
	key  string
	list func(agentSyntax) []string
}{
	{"units", func(a agentSyntax) []string { return a.Units }},
	{"executables", func(a agentSyntax) []string { return a.Executables }},
	{"containers", func(a agentSyntax) []string { return a.Containers }},
}

func (c *compiler) compileAgents(f *File) {
	for i, a := range f.syntax.Agents {
		for _, n := range notEnrolled {
			if len(n.list(a)) > 0 {
				c.bad(f, index("agents", i)+"."+n.key,
					"agent %s: enrolment by %s is not available yet; use users or cgroups", a.Name, n.key)
			}
		}
		c.agents[a.Name] = true
		c.engine.agents = append(c.engine.agents, Agent{
			Name: a.Name, Users: slices.Clone(a.Users), Cgroups: slices.Clone(a.Cgroups),
		})
	}
}

func (c *compiler) compileResources(f *File) {
	for i, s := range f.syntax.Resources {
		r := &resource{
			Resource: Resource{
				Name: s.Name, Protocol: s.Protocol, Credential: s.Credential,
				TLS: TLS{Verify: s.TLS.Verify, CA: s.TLS.CA, ServerName: s.TLS.ServerName},
			},
			names: map[string]bool{},
		}
		if r.TLS.Verify != "" && r.TLS.CA == "" {
			r.TLS.CA = "system"
		}
		if _, ok := c.Vocabulary[s.Protocol]; !ok && c.Vocabulary != nil {
			c.bad(f, index("resources", i)+".protocol", "resource %s: unknown protocol %q", s.Name, s.Protocol)
		}
		for j, text := range s.Hosts {
			h, err := ParseHost(text)
			if err != nil {
				c.bad(f, index(index("resources", i)+".hosts", j), "host %q: %v", text, err)
				continue
			}
			r.hosts = append(r.hosts, h)
			r.names[h.Name] = h.Name != ""
		}
		c.engine.resources = append(c.engine.resources, r)
	}
}
