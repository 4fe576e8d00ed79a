// Package socket reads and writes TCP sockets at less cost than package net, and
// otherwise as it does.
//
// Before a system call Go tells its scheduler that the thread may be gone for
// long, and a monitor takes the processor from threads that are: it wakes another
// thread for what else there is to do. A socket that never blocks needs none of
// that, and on a busy machine, where a thread that sends a packet delivers it and
// is often put aside right then, it happens all the time. [Conn] makes the calls
// without telling the scheduler, and leaves all waiting to the runtime's poller,
// as package net does.
package socket
