package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"

	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/kernel"
	"github.com/headgate/headgate/pkg/process"
)

// openKernel attaches. Where the attach point is not the root, the daemon has to
// live below it: the hook that hands the origin over follows the cgroup of the
// listening socket.
func (d *daemon) openKernel(context.Context) (err error) {
	mount, err := cgroup.Mount()
	if err != nil {
		return err
	}
	path := d.cfg.Intercept.Cgroup
	if path == "" {
		path = mount
	}
	if d.below = filepath.Clean(path) != mount; d.below {
		if err := cgroup.Create(path); err != nil {
			return err
		}
		own := filepath.Join(path, "daemon")
		if err := cgroup.Create(own); err != nil {
			return err
		}
		if d.leave, err = cgroup.Enter(own); err != nil {
			return err
		}
	}
	d.attachedTo = path
	d.kernel, err = kernel.Open(kernel.Options{CgroupPath: path, PinDir: d.cfg.Intercept.PinDir, ProcsLimit: d.cfg.Limits.Processes})
	if err != nil {
		return notOpened(err)
	}
	d.metrics.Kernel(d.kernelStats)
	if err := d.introduce(); err != nil {
		return err
	}
	if len(d.inherited) > 0 {
		// Connections queue at the sockets of the daemon before, until we accept.
		return d.kernel.HandOver(startRoom)
	}
	// An earlier daemon's port may be anybody's by now.
	return d.kernel.Suspend()
}

// notOpened adds to an error of the kernel side what can be done about it.
func notOpened(err error) error {
	switch {
	case errors.Is(err, syscall.EPERM):
		return withHint(err, "headgate daemon needs root, or the capabilities of its unit")
	case errors.Is(err, kernel.ErrABI):
		return withHint(err, "what the other version left goes on, and refuses agents without its daemon: stop the agents, "+
			"run headgate uninstall, which lets go of those that still run, and start this daemon")
	}
	return err
}

// startRoom is how long connections may wait for a daemon that is starting
// before they are refused.
const startRoom = 15 * time.Second

// introduce tells the kernel side which process is the daemon, so that its own
// connections are never redirected.
func (d *daemon) introduce() error {
	self, err := d.kernel.StartOf(os.Getpid())
	if err != nil {
		return err
	}
	if start, err := kernel.ProcStart(os.Getpid()); err != nil || !kernel.SameStart(start, self.Start) {
		return withHint(errors.New("the kernel knows another process by the daemon's pid"), "run the daemon in the host's pid namespace")
	}
	// The cgroup is exempt only if it is the daemon's own: others may be in it
	// otherwise.
	var own uint64
	if d.below {
		if own, err = d.ownCgroup(); err != nil {
			return err
		}
	}
	return d.kernel.SetDaemon(self, own)
}

func (d *daemon) ownCgroup() (uint64, error) {
	mount, err := cgroup.Mount()
	if err != nil {
		return 0, err
	}
	path, err := cgroup.Of(os.Getpid())
	if err != nil {
		return 0, err
	}
	return cgroup.ID(filepath.Join(mount, path))
}

// announce lets the kernel redirect to us.
func (d *daemon) announce(context.Context) error {
	if err := d.kernel.Heartbeat(); err != nil {
		return err
	}
	if err := d.kernel.SetHeartbeatLimit(time.Duration(d.cfg.Intercept.Heartbeat)); err != nil {
		return err
	}
	return d.proxies.announce()
}

// beat refreshes the heartbeat, without which the kernel side refuses.
func (d *daemon) beat(ctx context.Context) error {
	interval := max(time.Duration(d.cfg.Intercept.Heartbeat)/4, 100*time.Millisecond)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var lost uint64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := errors.Join(d.kernel.Heartbeat(), d.reconcile(&lost)); err != nil {
				return err
			}
			d.repin()
			d.notify(sdnotify.SdNotifyWatchdog)
		}
	}
}

// readEvents takes in what happens to enrolled processes until ctx ends.
func (d *daemon) readEvents(ctx context.Context) error {
	err := d.kernel.Events(ctx, kernel.Observer{Process: d.happened, Cgroup: d.agents.cgroupMade})
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// happened takes in what the kernel says of a process.
func (d *daemon) happened(ev process.Event) error {
	if ev.Kind == process.Enrol {
		d.agents.enrolled(ev)
	}
	if ev.Netns != 0 {
		d.proxies.seen(ev.Netns, ev.ID)
	}
	return d.observe(ev)
}

// observe takes in what happened to a process. The reader waits for it.
func (d *daemon) observe(ev process.Event) error {
	if err := d.tree.Apply(ev); err != nil {
		// The process stays enrolled; its lineage is partial from here on.
		d.log.Error().Err(err).Uint32("pid", ev.ID.PID).Msg("process event not taken in")
	}
	return nil
}

// repin puts back pins that somebody took away: without them agents would be
// free once the daemon ends.
func (d *daemon) repin() {
	restored, err := d.kernel.Repin()
	if len(restored) > 0 {
		d.log.Error().Strs("pins", restored).Msg("pins had been taken away; they are back")
	}
	if err != nil {
		d.log.Error().Err(err).Msg("pins are missing, and cannot be put back")
	}
}

// reconcile forgets the processes whose exit was among events that were lost:
// they would be taken for living ones for ever. lost is how many were at the last
// time.
func (d *daemon) reconcile(lost *uint64) error {
	n, err := d.kernel.Counter("events_lost")
	if err != nil || n == *lost {
		return err
	}
	*lost = n
	alive, asOf, err := d.kernel.Alive()
	if err != nil {
		return err
	}
	d.tree.Retain(alive, asOf)
	d.log.Warn().Uint64("lost", *lost).Msg("process events were lost; lineages are partial")
	return nil
}
