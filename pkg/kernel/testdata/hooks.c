/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Makes one kind of system call many times. Reads lines of "WHAT COUNT HOST
 * PORT" and answers each with the nanoseconds of processor time that the calls
 * took together.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in6 to;
static socklen_t to_size;
static int family;

static void aim(const char *host, int port)
{
	struct sockaddr_in *v4 = (void *)&to;

	memset(&to, 0, sizeof(to));
	family = strchr(host, ':') ? AF_INET6 : AF_INET;
	if (family == AF_INET) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((unsigned short)port);
		inet_pton(AF_INET, host, &v4->sin_addr);
		to_size = sizeof(*v4);
	} else {
		to.sin6_family = AF_INET6;
		to.sin6_port = htons((unsigned short)port);
		inet_pton(AF_INET6, host, &to.sin6_addr);
		to_size = sizeof(to);
	}
}

/* Our own time on a processor: that of others on a busy machine is no cost. */
static long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static int datagram_socket(void)
{
	return socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

/* Results of calls are not looked at where a refusal is what is measured. */
static void reconnect(int fd)
{
	if (connect(fd, (void *)&to, to_size))
		return;
}

static void send_one(int fd)
{
	if (send(fd, "x", 1, 0) < 0)
		return;
}

static void send_to(int fd)
{
	if (sendto(fd, "x", 1, 0, (void *)&to, to_size) < 0)
		return;
}

static void ask_peer(int fd)
{
	struct sockaddr_in6 peer;
	socklen_t size = sizeof(peer);

	getpeername(fd, (void *)&peer, &size);
}

static void make_socket(int fd)
{
	(void)fd;
	close(datagram_socket());
}

/* A connection that is reset at once leaves no port occupied. */
static int stream(void)
{
	struct linger none = {.l_onoff = 1};
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
	return fd;
}

static void fork_one(int fd)
{
	pid_t pid = fork();

	(void)fd;
	if (!pid)
		_exit(0);
	waitpid(pid, NULL, 0);
}

static void exec_one(int fd)
{
	char *argv[] = {"hooks", "nothing", NULL}, *env[] = {NULL};
	pid_t pid = vfork();

	(void)fd;
	if (!pid) {
		execve("/proc/self/exe", argv, env);
		_exit(1);
	}
	waitpid(pid, NULL, 0);
}

static long loop(void (*call)(int), int fd, long count)
{
	long began = now();

	while (count--)
		call(fd);
	return now() - began;
}

static long connect_streams(long count)
{
	long took = 0;

	while (count--) {
		int fd = stream();
		long began = now();

		reconnect(fd);
		took += now() - began;
		close(fd);
	}
	return took;
}

static long receive(long count)
{
	struct sockaddr_in6 from;
	socklen_t size = to_size;
	int fd = datagram_socket();
	long took = 0;
	char b[1];

	to.sin6_port = 0;
	if (bind(fd, (void *)&to, to_size) || getsockname(fd, (void *)&to, &size))
		return -1;
	while (count--) {
		long began;

		send_to(fd);
		size = sizeof(from);
		began = now();
		if (recvfrom(fd, b, 1, MSG_DONTWAIT, (void *)&from, &size) < 0)
			return -1;
		took += now() - began;
	}
	close(fd);
	return took;
}

/* with_socket measures calls on one socket, connected if that is asked for. */
static long with_socket(void (*call)(int), int fd, int connected, long count)
{
	long took;

	if (connected)
		reconnect(fd);
	took = loop(call, fd, count);
	close(fd);
	return took;
}

static long measure(const char *what, long count)
{
	if (!strcmp(what, "reconnect"))
		return with_socket(reconnect, datagram_socket(), 0, count);
	if (!strcmp(what, "send"))
		return with_socket(send_one, datagram_socket(), 1, count);
	if (!strcmp(what, "sendto"))
		return with_socket(send_to, datagram_socket(), 0, count);
	if (!strcmp(what, "getpeername"))
		return with_socket(ask_peer, stream(), 1, count);
	if (!strcmp(what, "recvfrom"))
		return receive(count);
	if (!strcmp(what, "connect"))
		return connect_streams(count);
	if (!strcmp(what, "socket"))
		return loop(make_socket, -1, count);
	if (!strcmp(what, "fork"))
		return loop(fork_one, -1, count);
	if (!strcmp(what, "exec"))
		return loop(exec_one, -1, count);
	return -1;
}

int main(int argc, char **argv)
{
	char what[16], host[64];
	int port;
	long count;

	(void)argv;
	if (argc > 1)
		return 0;
	while (scanf("%15s %ld %63s %d", what, &count, host, &port) == 4) {
		aim(host, port);
		printf("%ld\n", measure(what, count));
		fflush(stdout);
	}
	return 0;
}
