package gateway

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/metrics"
	"github.com/headgate/headgate/pkg/protocol"
)

func TestAFindingIsInTheRecordTheFlowsAndTheMetrics(t *testing.T) {
	r := newRig(t, func(_ context.Context, s *protocol.Session) error {
		return s.Record(protocol.Frame{Kind: protocol.FrameFinding, Finding: &protocol.Finding{
			Kind: protocol.FindingHoldsSecret, Credential: "shop", Fingerprint: "01234567",
		}})
	})
	r.Metrics = metrics.New("test")
	if _, err := r.connect(originTo("192.0.2.1:7000"), ""); err != nil {
		t.Fatal(err)
	}
	detail := r.session()
	i := slices.IndexFunc(detail.Events, func(e audit.Event) bool { return e.Kind == audit.KindFinding })
	if i < 0 {
		t.Fatalf("the record has %v", r.kinds())
	}
	var got audit.Finding
	if err := json.Unmarshal(detail.Events[i].Body, &got); err != nil {
		t.Fatal(err)
	}
	want := audit.Finding{Session: detail.Summary.ID, Kind: "agent_holds_secret", Credential: "shop", Fingerprint: "01234567"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("finding (-want +got):\n%s", diff)
	}
	if !slices.ContainsFunc(detail.Frames, func(f audit.RecordedFrame) bool { return strings.Contains(f.Text, "agent_holds_secret") }) {
		t.Errorf("the recording does not have it: %v", detail.Frames)
	}
	found := 0
	for flow, err := range audit.Flows(r.state, audit.FlowFilter{Kinds: []string{audit.FlowFinding}}) {
		if err != nil {
			t.Fatal(err)
		}
		found++
		if flow.What != "agent_holds_secret" || flow.Agent == "" || flow.Session != detail.Summary.ID || !strings.Contains(flow.Message, "shop") {
			t.Errorf("flow is %+v", flow)
		}
	}
	if found != 1 {
		t.Errorf("%d flows", found)
	}
	page := httptest.NewRecorder()
	r.Metrics.Handler().ServeHTTP(page, httptest.NewRequest("GET", "/metrics", nil))
	if !strings.Contains(page.Body.String(), `headgate_findings_total{finding="agent_holds_secret",`) {
		t.Error("no metric counts it")
	}
}
