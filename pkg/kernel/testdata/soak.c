/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What an agent's tree may do at its worst, and a check of what comes of it:
 *
 *	soak churn COUNT WITNESS PADDING   forks and execs until there were COUNT
 *	soak traffic WITNESS PROXY         connects, asks and tries until its input ends
 *	soak leaf HOW WITNESS              one attempt; the status says what came of it
 *
 * WITNESS is a port where somebody answers "w" who must never be reached: the
 * proxy answers "m". PADDING is the length of an argument for each exec. The
 * first two wait for a byte of input, and print what they did as JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum status { AS_EXPECTED = 0, ESCAPED = 3, UNEXPECTED = 4 };

struct tally {
	long forks, execs, mediated, refused, answered, escaped, unexpected;
};

/* Shared with every descendant. */
static struct tally *tally;
static char *self, *witness_arg, *padding;
static int witness;

#define ADD(what) __atomic_add_fetch(&tally->what, 1, __ATOMIC_RELAXED)

static void complain(const char *what)
{
	static int said;

	/* A failure that repeats fills no log. */
	if (said++ < 10)
		fprintf(stderr, "soak %d: %s: %s\n", getpid(), what, strerror(errno));
}

static struct sockaddr_in v4(const char *host, int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};

	inet_pton(AF_INET, host, &a.sin_addr);
	return a;
}

/* Who does not answer must not hold up the test. */
static void be_patient(int fd)
{
	struct timeval limit = {.tv_sec = 20};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

/* A connection where there is a rule that says proxy. */
static enum status mediated(int family)
{
	struct sockaddr_in6 to6 = {.sin6_family = AF_INET6, .sin6_port = htons((unsigned short)witness),
				   .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_in to4 = v4("127.0.0.2", witness);
	struct sockaddr *to = family == AF_INET ? (void *)&to4 : (void *)&to6;
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), pid = getpid();
	char who = '?';

	if (fd < 0) {
		complain("socket");
		return UNEXPECTED;
	}
	be_patient(fd);
	errno = 0;
	if (connect(fd, to, family == AF_INET ? sizeof(to4) : sizeof(to6)) ||
	    write(fd, &pid, sizeof(pid)) != sizeof(pid) || read(fd, &who, 1) != 1)
		complain("mediated connection");
	close(fd);
	return who == 'm' ? AS_EXPECTED : who == 'w' ? ESCAPED : UNEXPECTED;
}

/* A connection where there is a rule that says deny. */
static enum status refused_at(const char *host, int port)
{
	struct sockaddr_in to = v4(host, port);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	enum status s = AS_EXPECTED;

	if (!connect(fd, (void *)&to, sizeof(to))) {
		s = ESCAPED;
	} else if (errno != EPERM) {
		complain("refused connection");
		s = UNEXPECTED;
	}
	close(fd);
	return s;
}

static enum status leaf(const char *how)
{
	switch (*how) {
	case '4':
		return mediated(AF_INET);
	case '6':
		return mediated(AF_INET6);
	case 'd':
		return refused_at("127.0.0.3", witness);
	}
	return AS_EXPECTED; /* quiet */
}

static void note(enum status s, const char *how)
{
	if (s == ESCAPED)
		ADD(escaped);
	else if (s == UNEXPECTED)
		ADD(unexpected);
	else if (*how == 'd')
		ADD(refused);
	else if (*how != 'q')
		ADD(mediated);
}

/* Beside what came of it, the status of a process says what was tried. */
enum { TRIED_MEDIATED = 0x10, TRIED_REFUSED = 0x20 };

static int status_of(const char *how)
{
	return (int)leaf(how) | (*how == 'd' ? TRIED_REFUSED : *how == 'q' ? 0 : TRIED_MEDIATED);
}

/* become never returns. */
static void become(const char *how)
{
	char *argv[] = {self, "leaf", (char *)how, witness_arg, padding, NULL};
	char *env[] = {NULL};

	ADD(execs);
	execve("/proc/self/exe", argv, env);
	_exit(UNEXPECTED);
}

static pid_t begin(void)
{
	pid_t pid = fork();

	if (pid < 0) {
		complain("fork");
		_exit(UNEXPECTED);
	}
	if (pid)
		ADD(forks);
	return pid;
}

static void *become_in_thread(void *how)
{
	become(how);
	return NULL;
}

static void *fork_in_thread(void *how)
{
	if (!begin())
		_exit(status_of(how));
	_exit(0);
}

/* in_thread has a thread of a new process do it, while the leader waits, or is
 * gone already. */
static void in_thread(void *(*what)(void *), void *how, int leader_goes)
{
	pthread_t thread;

	if (begin())
		return;
	if (pthread_create(&thread, NULL, what, how))
		_exit(UNEXPECTED);
	if (leader_goes)
		pthread_exit(NULL);
	pthread_join(thread, NULL);
	_exit(UNEXPECTED);
}

/* deep leaves a leaf without living ancestors between it and us. */
static void deep(int generations, const char *how)
{
	if (begin())
		return;
	for (; generations; generations--) {
		if (begin())
			_exit(0);
	}
	become(how);
}

static void plain(const char *how)
{
	pid_t pid = vfork();

	if (!pid)
		become(how);
	if (pid < 0)
		complain("vfork");
	else
		ADD(forks);
}

static void step(long i)
{
	switch (i % 64) {
	case 0:
		plain("4");
		break;
	case 10:
		plain("6");
		break;
	case 20:
		plain("d");
		break;
	case 30:
		deep(3, "4");
		break;
	case 40:
		in_thread(become_in_thread, "6", 0);
		break;
	case 50:
		in_thread(fork_in_thread, "d", 1);
		break;
	case 60:
		in_thread(fork_in_thread, "4", 1);
		break;
	default:
		if (i % 4 == 1) {
			if (!begin())
				_exit(0);
		} else {
			plain("q");
		}
	}
}

/* reap counts what leaves say; orphans come to us too. */
static void reap(int options)
{
	int status;

	while (waitpid(-1, &status, options) > 0) {
		if (!WIFEXITED(status)) {
			ADD(unexpected);
			continue;
		}
		status = WEXITSTATUS(status);
		note(status & 0xf, status & TRIED_REFUSED ? "d" : status & TRIED_MEDIATED ? "4" : "q");
	}
}

static int churn(long count, size_t padding_length)
{
	padding = calloc(1, padding_length + 1);
	if (!padding || prctl(PR_SET_CHILD_SUBREAPER, 1))
		return UNEXPECTED;
	memset(padding, 'x', padding_length);
	for (long i = 0; tally->forks + tally->execs < count; i++) {
		step(i);
		/* At most so many at a time. */
		reap(i % 16 == 15 ? 0 : WNOHANG);
	}
	reap(0);
	return 0;
}

/* ask sends a question from a socket that is connected or not. */
static enum status ask(int connected)
{
	struct sockaddr_in to = v4("198.51.100.1", 53), from = {};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t size = sizeof(from);
	enum status s = UNEXPECTED;
	char answer[64];

	be_patient(fd);
	if (connected && connect(fd, (void *)&to, sizeof(to)))
		complain("connect to name server");
	else if ((connected ? send(fd, "name", 4, 0) : sendto(fd, "name", 4, 0, (void *)&to, sizeof(to))) != 4)
		complain("question");
	else if (recvfrom(fd, answer, sizeof(answer), 0, (void *)&from, &size) <= 0)
		complain("answer");
	else if (from.sin_addr.s_addr != to.sin_addr.s_addr || from.sin_port != to.sin_port)
		s = ESCAPED;
	else
		s = AS_EXPECTED;
	close(fd);
	return s;
}

static enum status refused_datagram(int connected)
{
	struct sockaddr_in to = v4("198.51.100.1", 443);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	enum status s = AS_EXPECTED;

	if (connected && connect(fd, (void *)&to, sizeof(to))) {
		complain("connect a socket for datagrams");
		s = UNEXPECTED;
	} else if ((connected ? send(fd, "x", 1, 0) : sendto(fd, "x", 1, 0, (void *)&to, sizeof(to))) >= 0) {
		s = ESCAPED;
	} else if (errno != EPERM) {
		complain("refused datagram");
		s = UNEXPECTED;
	}
	close(fd);
	return s;
}

static enum status refused_socket(void)
{
	int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);

	if (fd >= 0) {
		close(fd);
		return ESCAPED;
	}
	return errno == EPERM ? AS_EXPECTED : UNEXPECTED;
}

static enum status refused_bind(int port)
{
	struct sockaddr_in to = v4("127.0.0.9", port);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	enum status s = AS_EXPECTED;

	if (!bind(fd, (void *)&to, sizeof(to)))
		s = ESCAPED;
	else if (errno != EPERM)
		s = UNEXPECTED;
	close(fd);
	return s;
}

/* given_up begins a connection and waits for nothing. */
static enum status given_up(void)
{
	struct sockaddr_in to = v4("127.0.0.2", witness);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	enum status s = AS_EXPECTED;

	if (connect(fd, (void *)&to, sizeof(to)) && errno != EINPROGRESS) {
		complain("connection to give up");
		s = UNEXPECTED;
	}
	close(fd);
	return s;
}

static void ask_and_note(int connected)
{
	enum status s = ask(connected);

	if (s == AS_EXPECTED)
		ADD(answered);
	else
		note(s, "q");
}

static int traffic(int proxy)
{
	struct pollfd input = {.fd = 0, .events = POLLIN};

	while (!poll(&input, 1, 0)) {
		note(mediated(AF_INET), "4");
		note(mediated(AF_INET6), "6");
		ask_and_note(0);
		ask_and_note(1);
		note(refused_at("127.0.0.3", witness), "d");
		note(refused_at("127.0.0.1", proxy), "d");
		note(refused_at("169.254.169.254", 80), "d");
		note(refused_datagram(0), "d");
		note(refused_datagram(1), "d");
		note(refused_socket(), "d");
		note(refused_bind(proxy), "d");
		note(given_up(), "q");
	}
	return 0;
}

int main(int argc, char **argv)
{
	int status = UNEXPECTED;
	char go;

	if (argc < 4)
		return UNEXPECTED;
	self = argv[0];
	if (!strcmp(argv[1], "leaf")) {
		witness = atoi(argv[3]);
		return status_of(argv[2]);
	}
	tally = mmap(NULL, sizeof(*tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (tally == MAP_FAILED || read(0, &go, 1) != 1)
		return UNEXPECTED;
	if (!strcmp(argv[1], "churn") && argc == 5) {
		witness_arg = argv[3];
		witness = atoi(witness_arg);
		status = churn(atol(argv[2]), (size_t)atol(argv[4]));
	} else if (!strcmp(argv[1], "traffic")) {
		witness = atoi(argv[2]);
		status = traffic(atoi(argv[3]));
	}
	printf("{\"Forks\":%ld,\"Execs\":%ld,\"Mediated\":%ld,\"Refused\":%ld,\"Answered\":%ld,\"Escaped\":%ld,\"Unexpected\":%ld}\n",
	       tally->forks, tally->execs, tally->mediated, tally->refused, tally->answered, tally->escaped, tally->unexpected);
	return status;
}
