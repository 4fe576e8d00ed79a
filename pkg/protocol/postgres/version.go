package postgres

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/protocol/postgres/login"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// versionFor returns the version in which the target is spoken to: what the agent
// asked for, as far as we know it. 3.1 was never used.
func versionFor(start *wire.Startup) uint32 {
	if start.Code >= wire.Version32 {
		return wire.Version32
	}
	return wire.Version30
}

// agree settles on a version with the target and the agent. What neither we nor
// the target know is negotiated away and no error, as a server does it.
func (o *opening) agree(start *wire.Startup) error {
	asked := versionFor(start)
	o.version = asked
	typ, err := o.fromTarget.Peek()
	if err != nil {
		return fromUpstream(err)
	}
	if typ == wire.NegotiateProtocolVersion {
		if err := o.older(asked); err != nil {
			return fromUpstream(err)
		}
	}
	unknown := options(start)
	if o.version == asked && start.Code <= wire.Version32 && len(unknown) == 0 {
		return nil
	}
	if _, err := o.toAgent.Write(appendNegotiate(nil, o.version, unknown)); err != nil {
		return fromDownstream(fmt.Errorf("negotiate version: %w", err))
	}
	return nil
}

// older takes the target's word that it speaks an older version. It was asked for
// no options.
func (o *opening) older(asked uint32) error {
	if _, _, err := o.fromTarget.Next(); err != nil {
		return err
	}
	raw, err := o.fromTarget.Raw(login.MaxMessage)
	if err != nil {
		return err
	}
	version, unknown, err := wire.DecodeNegotiate(raw[5:])
	if err != nil {
		return err
	}
	// A server says the minor number alone, others the whole version.
	if version < wire.Version30 {
		version |= wire.Version30
	}
	if version >= asked || len(unknown) > 0 {
		return fmt.Errorf("%w: the target negotiates what it was not asked for", wire.ErrMalformed)
	}
	o.version = wire.Version30
	return nil
}

// options returns the names of the protocol options that are asked for. None is
// known.
func options(start *wire.Startup) []string {
	var names []string
	for _, p := range start.Parameters {
		if strings.HasPrefix(p.Name, "_pq_.") && !slices.Contains(names, p.Name) {
			names = append(names, p.Name)
		}
	}
	return names
}

// appendNegotiate appends a NegotiateProtocolVersion.
func appendNegotiate(dst []byte, version uint32, unknown []string) []byte {
	dst, mark := wire.Begin(dst, wire.NegotiateProtocolVersion)
	dst = binary.BigEndian.AppendUint32(dst, version)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(unknown)))
	for _, name := range unknown {
		dst = append(append(dst, name...), 0)
	}
	return wire.Finish(dst, mark)
}
