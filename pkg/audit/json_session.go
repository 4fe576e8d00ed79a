package audit

import (
	"maps"
	"slices"
	"strconv"

	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/transparent"
)

// AppendJSON is for package record.
func (e SessionOpen) AppendJSON(b []byte) []byte {
	o := begin(b)
	o.text("session", e.Session)
	o.text("agent", e.Agent)
	o.key("origin")
	o.b = appendOrigin(o.b, &e.Origin)
	o.key("lineage")
	o.b = appendList(o.b, e.Lineage, appendProcess)
	o.flag("lineage_partial", e.LineagePartial)
	o.key("principal")
	o.b = appendPrincipal(o.b, &e.Principal)
	o.some("protocol", e.Protocol)
	o.some("resource", e.Resource)
	o.list("names", e.Names)
	o.some("name_source", e.NameSource)
	return o.end()
}

// AppendJSON is for package record.
func (e SessionEnd) AppendJSON(b []byte) []byte {
	o := begin(b)
	o.text("session", e.Session)
	o.text("reason", e.Reason)
	o.some("stage", e.Stage)
	o.some("error", e.Error)
	o.number("bytes_up", e.BytesUp)
	o.number("bytes_down", e.BytesDown)
	o.key("duration_ms")
	o.b = strconv.AppendInt(o.b, e.DurationMS, 10)
	if e.Recording != nil {
		o.key("recording")
		anchor := begin(o.b)
		anchor.number("entries", e.Recording.Entries)
		anchor.text("head", e.Recording.Head)
		anchor.flag("truncated", e.Recording.Truncated)
		o.b = anchor.end()
	}
	o.some("recording_error", e.RecordingError)
	o.flag("synthetic", e.Synthetic)
	return o.end()
}

func appendOrigin(b []byte, from *transparent.Origin) []byte {
	o := begin(b)
	target := ""
	if from.Target.IsValid() {
		target = from.Target.String()
	}
	o.text("target", target)
	o.flag("mapped", from.Mapped)
	if from.Transport != transparent.TCP {
		o.text("transport", from.Transport.String())
	}
	o.id("process", from.Process)
	o.id("root", from.Root)
	o.number("thread", uint64(from.Thread))
	o.number("exec", from.Exec)
	o.number("enrolment", uint64(from.Enrolment))
	o.number("uid", uint64(from.UID))
	o.number("cgroup", from.Cgroup)
	o.number("netns", from.Netns)
	o.number("socket", from.Socket)
	o.number("time", from.Time)
	return o.end()
}

func (o *object) id(name string, id process.ID) {
	o.key(name)
	one := begin(o.b)
	one.number("pid", uint64(id.PID))
	one.number("start", id.Start)
	o.b = one.end()
}

func appendProcess(b []byte, p Process) []byte {
	o := begin(b)
	o.id("id", p.ID)
	o.text("exe", p.Exe)
	o.list("argv", p.Argv)
	o.flag("argv_truncated", p.ArgvTruncated)
	o.number("uid", uint64(p.UID))
	o.flag("partial", p.Partial)
	return o.end()
}

func appendPrincipal(b []byte, p *identity.Principal) []byte {
	o := begin(b)
	o.some("issuer", p.Issuer)
	o.some("subject", p.Subject)
	o.list("groups", p.Groups)
	if len(p.Claims) > 0 {
		o.key("claims")
		claims := begin(o.b)
		for _, name := range slices.Sorted(maps.Keys(p.Claims)) {
			claims.b = appendMemberName(claims.b, name, claims.more)
			claims.b = appendText(claims.b, p.Claims[name])
			claims.more = true
		}
		o.b = claims.end()
	}
	return o.end()
}

// appendMemberName is object.key for a name that is not one of ours.
func appendMemberName(b []byte, name string, more bool) []byte {
	if more {
		b = append(b, ',')
	}
	return append(appendText(b, name), ':')
}
