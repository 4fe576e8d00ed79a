package socket

// Lender has the buffer of a [Conn.ReadLent]. Its methods are called by the reader,
// while it reads.
type Lender interface {
	// Lend returns the buffer to read into, of at least one byte: the same one until
	// Return.
	Lend() []byte
	// Return takes it back, untouched, since there is nothing to read.
	Return()
}

// ReadLent is Read into what l lends. While it waits nothing is lent: a connection
// on which nothing comes for hours needs no memory for it.
func (c *Conn) ReadLent(l Lender) (int, error) {
	c.read.mu.Lock()
	c.read.lender = l
	n, err := c.read.call(nil)
	c.read.lender = nil
	c.read.mu.Unlock()
	return c.received(n, err)
}

// borrow makes the call of receive into what is lent.
func (d *direction) borrow(fd uintptr) bool {
	if d.lender == nil {
		return d.receive(fd)
	}
	p := d.lender.Lend()
	d.p = p[:min(len(p), maxCall)]
	if d.receive(fd) {
		return true
	}
	d.p = nil
	d.lender.Return()
	return false
}
