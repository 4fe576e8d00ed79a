package kernel

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/headgate/headgate/bpf"
)

// hook is a program that follows processes, in its two forms.
type hook struct{ btf, raw, tracepoint string }

// processHooks are attached before anything that asks for marks.
var processHooks = []hook{
	{bpf.HeadgateProgHeadgateMkdir, bpf.HeadgateProgHeadgateMkdirRaw, "cgroup_mkdir"},
	{bpf.HeadgateProgHeadgateRmdir, bpf.HeadgateProgHeadgateRmdirRaw, "cgroup_rmdir"},
	{bpf.HeadgateProgHeadgateFork, bpf.HeadgateProgHeadgateForkRaw, "sched_process_fork"},
	{bpf.HeadgateProgHeadgateExec, bpf.HeadgateProgHeadgateExecRaw, "sched_process_exec"},
	{bpf.HeadgateProgHeadgateExit, bpf.HeadgateProgHeadgateExitRaw, "sched_process_exit"},
}

// load fills k's maps and programs. Maps are taken from the pins if there are
// any.
func (k *Kernel) load(procsLimit uint32) error {
	spec, err := bpf.LoadHeadgate()
	if err != nil {
		return fmt.Errorf("read object: %w", err)
	}
	if k.names, err = counterNames(spec); err != nil {
		return err
	}
	if procsLimit != 0 {
		spec.Maps[bpf.HeadgateMapProcs].MaxEntries = procsLimit
	}
	var opts ebpf.CollectionOptions
	if k.pins != nil {
		if err := k.pins.share(spec); err != nil {
			return err
		}
		opts.Maps.PinPath = k.pins.dir
	}
	k.lost = withoutUnsupported(spec)
	coll, err := loadCollection(spec, opts)
	if err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	defer coll.Close()
	if err := coll.Assign(&k.maps); err != nil {
		return fmt.Errorf("take maps: %w", err)
	}
	k.programs = make(map[string]*ebpf.Program)
	for name := range spec.Programs {
		if p := coll.DetachProgram(name); p != nil {
			k.programs[name] = p
		}
	}
	return nil
}

// loadCollection tries the process hooks as tp_btf, and as raw tracepoints
// where the kernel or its confinement refuses those.
func loadCollection(spec *ebpf.CollectionSpec, opts ebpf.CollectionOptions) (*ebpf.Collection, error) {
	coll, err := ebpf.NewCollectionWithOptions(without(spec, func(h hook) string { return h.raw }), opts)
	if err == nil {
		return coll, nil
	}
	coll, rawErr := ebpf.NewCollectionWithOptions(without(spec, func(h hook) string { return h.btf }), opts)
	if rawErr != nil {
		return nil, fmt.Errorf("%w; with raw tracepoints: %w", err, rawErr)
	}
	return coll, nil
}

func without(spec *ebpf.CollectionSpec, form func(hook) string) *ebpf.CollectionSpec {
	spec = spec.Copy()
	for _, h := range processHooks {
		delete(spec.Programs, form(h))
	}
	return spec
}

// counterNames takes the names of the counters from the object's own types:
// COUNT_DENIED_RULE becomes denied_rule.
func counterNames(spec *ebpf.CollectionSpec) ([]string, error) {
	var enum *btf.Enum
	if err := spec.Types.TypeByName("counter", &enum); err != nil {
		return nil, fmt.Errorf("find names of counters: %w", err)
	}
	values := slices.Clone(enum.Values)
	slices.SortFunc(values, func(a, b btf.EnumValue) int { return int(a.Value) - int(b.Value) })
	var names []string
	for _, v := range values {
		if name, ok := strings.CutPrefix(v.Name, "COUNT_"); ok {
			names = append(names, strings.ToLower(name))
		}
	}
	return names, nil
}
