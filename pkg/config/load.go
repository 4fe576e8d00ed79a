package config

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/policy/policytest"
	"github.com/headgate/headgate/pkg/policy/strict"
)

// DefaultPath is where the configuration is.
const DefaultPath = "/etc/headgate/headgate.yaml"

// Load reads the configuration at path and its drop-ins, over [Default], and
// checks the whole. The errors list everything that was found.
func Load(path string) (*Config, error) {
	files, err := yamlFiles(filepath.Join(filepath.Dir(path), "conf.d"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	c, at := Default(), strict.Positions{}
	var errs strict.Errors
	for _, name := range append([]string{path}, files...) {
		data, err := readFile(name)
		if err != nil {
			return nil, err
		}
		errs = append(errs, strict.Decode(name, data, c, at)...)
	}
	if err := errs.Err(); err != nil {
		return nil, err
	}
	// A default has no place of its own: what is wrong because of one is
	// reported for the file that was read first.
	at[""] = strict.Position{File: path}
	if err := check(c, at); err != nil {
		return nil, err
	}
	return c, nil
}

// LoadPolicies reads the policy files of a directory: *.yaml, in the order of
// their names, except *_test.yaml. Hidden files and directories are left alone,
// and a *.yml file is an error, because it would silently not be applied. What
// the error says is everything that was found in all files.
func LoadPolicies(dir string) ([]*policy.File, error) {
	names, err := yamlFiles(dir)
	if err != nil {
		return nil, err
	}
	var files []*policy.File
	var errs []error
	for _, name := range names {
		if strings.HasSuffix(name, policytest.Suffix) {
			continue
		}
		data, err := readFile(name)
		if err == nil {
			var f *policy.File
			if f, err = policy.Parse(name, data); err == nil {
				files = append(files, f)
			}
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return files, nil
}

// yamlFiles lists the *.yaml files of a directory by name.
func yamlFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list directory: %w", err)
	}
	var names []string
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		switch ext := filepath.Ext(name); {
		case e.IsDir() || strings.HasPrefix(e.Name(), "."):
		case ext == ".yml":
			return nil, fmt.Errorf("list directory: %s would not be read: rename it to end in .yaml", name)
		case ext == ".yaml":
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// readFile reads a regular file of at most [strict.MaxSize] bytes that not
// everybody may write.
func readFile(name string) ([]byte, error) {
	// Looked at before it is opened: opening a FIFO would wait.
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read file: %s is not a regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return nil, fmt.Errorf("read file: %s can be written by everybody: chmod o-w %s", name, name)
	}
	data, err := io.ReadAll(io.LimitReader(f, strict.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	return data, nil
}

// Print returns the configuration as a file that [Load] reads. There is no
// secret in it, because there is none in a configuration.
func Print(c *Config) ([]byte, error) {
	data, err := yaml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("print configuration: %v", err)
	}
	return data, nil
}

// CredentialHosts returns the host names that credentials are bound to, for
// somebody to resolve.
func (c *Config) CredentialHosts() []string {
	var names []string
	for _, one := range c.Credentials {
		for _, s := range one.Hosts {
			if h, err := policy.ParseHost(s); err == nil && h.Name != "" {
				names = append(names, h.Name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// CredentialSpecs returns the credentials for [credential.New], by name. Host
// names are replaced by their addresses in resolved; a name without any binds to
// nothing, and so does a credential that has only such names.
func (c *Config) CredentialSpecs(resolved map[string][]netip.Addr) []credential.Spec {
	var specs []credential.Spec
	for name, one := range c.Credentials {
		spec := credential.Spec{
			Name: name, Username: one.Username, From: one.From, Endpoints: map[netip.AddrPort]string{},
			Methods: one.Methods, Certificate: one.Certificate, Key: one.Key, Placeholder: one.Placeholder,
		}
		for _, s := range one.Hosts {
			h, err := policy.ParseHost(s)
			switch {
			case err != nil:
				// Check has reported it; nothing is bound to it.
			case h.Name == "":
				spec.Hosts = append(spec.Hosts, h.String())
			default:
				for _, a := range resolved[h.Name] {
					if a = a.Unmap().WithZone(""); a.IsValid() {
						at := netip.AddrPortFrom(a, h.Port)
						spec.Hosts = append(spec.Hosts, at.String())
						if spec.Endpoints[at] == "" {
							spec.Endpoints[at] = fmt.Sprintf("%s:%d", h.Name, h.Port)
						}
					}
				}
			}
		}
		specs = append(specs, spec)
	}
	slices.SortFunc(specs, func(a, b credential.Spec) int { return strings.Compare(a.Name, b.Name) })
	return specs
}
