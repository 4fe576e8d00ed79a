// Package audit keeps the record of what agents asked for and what was decided,
// and the recordings of what was said.
//
// # Decide and audit are one act
//
// [Log.Append] returns only when the event is written, but for a [Result], which
// tells of what is over: it may wait for the next event, for 50 ms at most, and so do
// the frames of a recording. Written means that the kernel has it: in a segment, or
// in the journal that package record describes. Every failure of it is
// [ErrNoAudit], also that of a nil Log; whoever gets it must not act. So a full
// disk, or a lack of descriptors for the next segment, denies everything for as
// long as it lasts. Only where it is uncertain what the files hold, as after a
// failed fsync, does the log take nothing more until the daemon is started
// again. [Log.Err] says what it is now.
//
// A recording is created when its first frames have waited for so long; should
// that fail, [Recording].Failed is told, and ends the session. As long as none can
// be created, the first frame of each other one is refused at once.
//
// # The last of the disk
//
// Agents can cause events as fast as they can connect. They must not be able to
// keep the daemon from writing down how things ended: below [Options].MinFree
// of free disk, frames and all events are refused that an agent can bring about
// by itself, and the rest is for those of [KindResult], [KindSessionEnd],
// [KindPolicy] and of the daemon's own start and stop.
//
// # Layout of the state directory
//
//	audit/000001.log …              events: one log for all sessions
//	audit/journal                   the latest of them, of a daemon that runs or died
//	sessions/<session>/000001.log   one recording per session, if anything was recorded
//
// Little is in both: what was decided about an operation and how it ended are events,
// rows, notices and what events have to cut are frames. A session that only had
// results with nothing of that kind has no recording.
//
// Both are logs of package record, which documents the line format. The body of
// an event is the struct of its kind in this package; the body of a recording's
// entry is a [Frame], of the kind "frame".
//
// # What is proven
//
// The event that ends a session holds the head of its recording ([Anchor]), so
// that a recording which was changed, cut or removed afterwards shows in
// [Verify]. The audit log itself vouches for everything but its own end: lines
// cut off there show only against a copy of [Log.Head] on another host.
//
// # After a crash
//
// Of decisions none is lost; of results and frames what waited.
// [OpenLog] ends every session that was opened and not ended, with the reason
// [ReasonDaemonStopped] and the anchor of what its recording had by then. An
// unfinished last line is cut, and what in the journal does not go on from the
// segments, and a [Recovered] event says so.
//
// # Secrets
//
// Argument vectors pass through [Options].Redact before they are written. That
// is a net, not a promise: a program may take a secret in any argument. Texts of
// operations and frames are written as they come; masking and redacting them is
// the business of the protocol, which knows what they mean.
package audit
