package kernel

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
)

// attachment is one attached program.
type attachment struct {
	program string
	where   string // the attach point, for people
	cgroup  string // empty for process hooks
	link    link.Link
}

// cgroupHook is a program that is attached to the cgroup.
type cgroupHook struct {
	program string
	attach  ebpf.AttachType
}

// cgroupHooks are in the order in which they are attached: connect last, when
// everything that a redirected connection needs is in place. Those that the
// kernel does not know were taken out when it was loaded.
var cgroupHooks = []cgroupHook{
	{bpf.HeadgateProgHeadgateBind4, ebpf.AttachCGroupInet4Bind},
	{bpf.HeadgateProgHeadgateBind6, ebpf.AttachCGroupInet6Bind},
	{bpf.HeadgateProgHeadgatePostBind4, ebpf.AttachCGroupInet4PostBind},
	{bpf.HeadgateProgHeadgatePostBind6, ebpf.AttachCGroupInet6PostBind},
	{bpf.HeadgateProgHeadgateGetpeername4, ebpf.AttachCgroupInet4GetPeername},
	{bpf.HeadgateProgHeadgateGetpeername6, ebpf.AttachCgroupInet6GetPeername},
	{bpf.HeadgateProgHeadgateSockops, ebpf.AttachCGroupSockOps},
	{bpf.HeadgateProgHeadgateRecvmsg4, ebpf.AttachCGroupUDP4Recvmsg},
	{bpf.HeadgateProgHeadgateRecvmsg6, ebpf.AttachCGroupUDP6Recvmsg},
	{bpf.HeadgateProgHeadgateSockRelease, ebpf.AttachCgroupInetSockRelease},
	{bpf.HeadgateProgHeadgateEgress, ebpf.AttachCGroupInetEgress},
	{bpf.HeadgateProgHeadgateSockCreate, ebpf.AttachCGroupInetSockCreate},
	{bpf.HeadgateProgHeadgateConnectUnix, ebpf.AttachCgroupUnixConnect},
	{bpf.HeadgateProgHeadgateSendmsgUnix, ebpf.AttachCgroupUnixSendmsg},
	{bpf.HeadgateProgHeadgateSendmsg4, ebpf.AttachCGroupUDP4Sendmsg},
	{bpf.HeadgateProgHeadgateSendmsg6, ebpf.AttachCGroupUDP6Sendmsg},
	{bpf.HeadgateProgHeadgateConnect4, ebpf.AttachCGroupInet4Connect},
	{bpf.HeadgateProgHeadgateConnect6, ebpf.AttachCGroupInet6Connect},
}

func (k *Kernel) attach() error {
	for _, h := range processHooks {
		if err := k.attachProcessHook(h); err != nil {
			return fmt.Errorf("attach to %s: %w", h.tracepoint, err)
		}
	}
	if err := k.attachLSM(); err != nil {
		return err
	}
	for _, h := range cgroupHooks {
		if k.programs[h.program] == nil {
			continue
		}
		l, err := k.attachCgroup(h.program, h.attach)
		if err != nil {
			return fmt.Errorf("attach %s to %s: %w", h.program, k.cgroupPath, err)
		}
		k.links = append(k.links, attachment{h.program, h.attach.String(), k.cgroupPath, l})
	}
	return nil
}

// attachProcessHook attaches the form of the hook that was loaded. The kernel
// cannot update such a link in place, so for a moment the old and the new
// program both run: what they do twice has the same outcome.
func (k *Kernel) attachProcessHook(h hook) error {
	name, unused, where := h.btf, h.raw, "tp_btf/"+h.tracepoint
	if k.programs[name] == nil {
		name, unused, where = h.raw, h.btf, "raw_tp/"+h.tracepoint
	}
	if err := k.attachTracing(name, where, h); err != nil || k.pins == nil {
		return err
	}
	// An earlier daemon may have used the other form.
	return unpin(k.pins.link(unused))
}

// attachTracing attaches and pins a program that is not attached to a cgroup.
func (k *Kernel) attachTracing(name, where string, h hook) error {
	l, err := attachTracepoint(k.programs[name], h)
	if err != nil {
		return err
	}
	k.links = append(k.links, attachment{program: name, where: where, link: l})
	if k.pins == nil {
		return nil
	}
	return replacePin(l, k.pins.link(name))
}

func attachTracepoint(p *ebpf.Program, h hook) (link.Link, error) {
	if p.Type() == ebpf.LSM {
		return link.AttachLSM(link.LSMOptions{Program: p})
	}
	if p.Type() == ebpf.Tracing {
		return link.AttachTracing(link.TracingOptions{Program: p})
	}
	return link.AttachRawTracepoint(link.RawTracepointOptions{Name: h.tracepoint, Program: p})
}

// attachCgroup updates the pinned link, or makes one. A link to another cgroup,
// or to one that was removed, is replaced.
func (k *Kernel) attachCgroup(name string, attach ebpf.AttachType) (link.Link, error) {
	if k.pins != nil {
		l, err := k.update(name)
		if l != nil || err != nil {
			return l, err
		}
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: k.cgroupPath, Attach: attach, Program: k.programs[name]})
	if err != nil {
		return nil, err
	}
	if k.pins != nil {
		if err := replacePin(l, k.pins.link(name)); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// update puts the new program into the pinned link of that name. It returns nil
// where there is no link that can be used.
func (k *Kernel) update(name string) (link.Link, error) {
	l, err := link.LoadPinnedLink(k.pins.link(name), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned link: %w", err)
	}
	info, err := l.Info()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("inspect pinned link: %w", err), l.Close())
	}
	if cg := info.Cgroup(); cg == nil || cg.CgroupId != k.cgroupID {
		return nil, l.Close()
	}
	err = l.Update(k.programs[name])
	if errors.Is(err, unix.ENOLINK) {
		return nil, l.Close()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("update link: %w", err), l.Close())
	}
	return l, nil
}

// replacePin pins l at path. The rename replaces an older link there in one
// step, so that the path names an attached program at all times.
func replacePin(l link.Link, path string) error {
	next := path + nextSuffix
	if err := unpin(next); err != nil {
		return err
	}
	if err := l.Pin(next); err != nil {
		return fmt.Errorf("pin link: %w", err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("pin link: %w", err)
	}
	return nil
}

// detach takes a program off also while another process holds its link. Process
// hooks know no such thing: closing and unpinning is all there is.
func detach(l link.Link) error {
	err := l.Detach()
	if err == nil || errors.Is(err, link.ErrNotSupported) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return fmt.Errorf("detach link: %w", err)
}
