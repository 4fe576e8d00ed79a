// Package copydata rewrites the values in the data of a COPY TO STDOUT, in text,
// CSV and binary format, while it streams.
//
// It is pure: bytes in, bytes out. What comes in is hostile and may be cut
// anywhere. Whole rows go out as soon as they are there, and what has not to be
// changed goes out byte for byte: the rewriter never quotes or escapes anything
// in its own way but the values that it puts in the place of others.
//
// Data that does not have the layout that was promised is an error, never passed
// on: rows of another width, a header of another kind, anything behind the end.
//
// A value in text format that is the same as the string for NULL may be either,
// where that string needs no escape. It is taken for a value then: were it taken
// for NULL, the choice of that string would tell which rows hold it.
//
// Sources: PostgreSQL documentation, COPY, "File Formats";
// src/backend/commands/copyto.c for what a server writes and copyfromparse.c for
// what it reads.
package copydata
