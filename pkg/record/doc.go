// Package record keeps append-only logs that show when somebody edited them.
//
// A log is a directory of segments that cat, grep, jq and sha256sum can read. While
// somebody appends, its latest entries may be in a journal beside them, for 50 ms.
//
// # Format
//
// The segments are called 000001.log, 000002.log, … without gaps; numbers above
// 999999 simply have more digits. Other names that end in ".log" do not belong
// there and make the log broken; other names, but for the journal's, are ignored. Every
// line of a segment is
//
//	<hash> <object>\n
//
// where hash is 64 lower-case hexadecimal digits, followed by exactly one
// space, and object is one JSON object without white space between its tokens.
// A line's object has at most [MaxEntryBytes] bytes. The hash is
//
//	SHA-256(hash of the previous line, as 32 bytes || the object's bytes)
//
// and the line before the very first one counts as 32 zero bytes. The chain
// runs through all lines of all segments, headers included.
//
// The first line of each segment is its header, with the keys in this order:
//
//	{"segment":2,"format":1,"created":"<time>","next":118,"previous":"<hash>"}
//
// segment is the number in the file's name, format is 1, next is the sequence
// number that the segment's first entry has, and previous is the hash of the
// last line of the segment before, 64 zeros for the first segment. Every
// further line is an entry, with the keys in this order:
//
//	{"seq":118,"time":"<time>","kind":"<kind>","body":<any JSON value>}
//
// seq starts at 1 and grows by one from entry to entry over the whole log;
// headers have none. Times are RFC 3339 with up to nine digits of fraction, no
// trailing zeros, in UTC ("Z"). They come from the wall clock and may step
// back; seq never does. kind is 1 to 64 of a-z, 0-9 and "_". In body, DEL and
// the C1 control characters are written as \u escapes, like the C0 ones that
// JSON escapes anyway, so that printing a log never drives a terminal. Text
// that is not valid UTF-8 does not survive JSON; who needs such bytes keeps
// them in a []byte, which becomes base64.
//
// Directories have mode 0700 and files 0600.
//
// # The journal
//
// A log of [Open] whose [Durability] is [Write] has a file of 128 KiB named
// journal from its first entry until it is closed. It is mapped and shared, and
// what is stored there is the kernel's as after write(2), for a fraction of the
// cost: it survives the process, not the machine. Its lines move to the segment
// with one write(2) when it is full, within 50 ms, and before anything else goes
// there; so all of them belong behind the last segment's last line.
//
// Its first eight bytes, little-endian, are its state. The lower half says how
// many bytes of complete lines there are, from offset 64 on; what stands behind
// them is left from before. The upper half changes when the journal is emptied. A
// line is stored first and the state after it, in one piece. To read on where the
// segments end, pass over the lines whose seq is there already. Whoever copies a
// log that is open copies the journal first, and then the segments.
//
// The blocks of the file are allocated when it is made, so that entries which are
// in the journal are safe on a disk without room. Where it cannot be made, Append
// does without and writes each line to the segment.
//
// # What the chain proves
//
// A line that was changed, removed, inserted, repeated or moved breaks the
// chain at that place, and so does a segment that is missing before the last
// one. The chain has no key: who can write the files can also compute a whole
// new chain, or drop lines at the very end. Both show only against a head
// ([Log.Head], [Report]) that was kept where the writer of the files could not
// reach it: in another log, in a checkpoint, on another host.
//
// The lines of a journal are linked like all others: none can be changed or left
// out in the middle unless all behind it are made anew. But the journal is the very
// end of the log, and can be emptied or cut without a trace. Readers take from it
// what goes on from the segments, and treat the rest like an unfinished last line.
// So a line that is dropped from the end of the last segment shows as lines of the
// journal that do not go on, for as long as they are there.
//
// # After a crash
//
// Lines are written by one write(2), one or several at a time,
// so a crash leaves at most a beginning of what it hit, at the end of the last
// segment. [Open] moves to the segment what only the journal has, which completes
// a line that was on its way there. It cuts an unfinished line, and what is in the
// journal and does not go on from the segment, and reports both; whatever else is
// wrong makes it refuse with [ErrBroken]. NUL bytes at the end, which some file
// systems leave after a power cut, count as part of an unfinished line.
package record
