package policy

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/goccy/go-yaml"
)

// Kept writes the agents, resources and masks of a policy as part of a policy file,
// in YAML and by name: what is left of it when its rules are replaced.
func Kept(files []*File) ([]byte, error) {
	var all struct {
		Agents    []agentSyntax    `yaml:"agents,omitempty"`
		Resources []resourceSyntax `yaml:"resources,omitempty"`
		Masks     []maskSyntax     `yaml:"masks,omitempty"`
	}
	for _, f := range files {
		all.Agents = append(all.Agents, f.syntax.Agents...)
		all.Resources = append(all.Resources, f.syntax.Resources...)
		all.Masks = append(all.Masks, f.syntax.Masks...)
	}
	slices.SortFunc(all.Agents, func(a, b agentSyntax) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(all.Resources, func(a, b resourceSyntax) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(all.Masks, func(a, b maskSyntax) int { return cmp.Compare(a.Name, b.Name) })
	if len(all.Agents)+len(all.Resources)+len(all.Masks) == 0 {
		return nil, nil
	}
	text, err := yaml.MarshalWithOptions(all, yaml.OmitEmpty(), yaml.OmitZero(), yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("write policy: %w", err)
	}
	return text, nil
}
