package policy

// Observation is a request that was decided about, and what was said, as a record
// has it: what policies are tried on, explained by and suggested from.
//
// Its Request is what the record kept of the one that was asked. Arguments of
// processes are redacted there, texts bounded, and facts for conditions left out;
// who needs these asks the protocol for them again.
type Observation struct {
	Request Request
	// Session and Op say where the record tells more.
	Session, Op string
	// Verdict is what happened, WouldHave what would have if what observes had
	// enforced.
	Verdict, WouldHave Verdict
	Mode               Mode
	Rule               string
	Reason             string
	Resource           string
	Message            string
	Generation         uint64
	// Cut says that the record has not all of the operation.
	Cut bool
}
