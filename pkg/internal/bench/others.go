package bench

const (
	measureEcho  = "connections"
	measureLogin = "log-ins"
	measureIdle  = "idle sessions"
	measureRest  = "at rest"
	streams      = 8
)
