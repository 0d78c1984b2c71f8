#pragma once

// Whether the machine at the other end of a TCP connection is still there (patches/0004-rpc.patch). One that loses its power
// or its network says nothing: without this an RPC client waits for it a quarter of an hour, or for ever, and a
// server for a client that is gone. A peer that computes for minutes and reads nothing is there: its system answers.

#include <cerrno>

#ifdef _WIN32
#  include <winsock2.h>
#  include <ws2tcpip.h>
#else
#  include <netinet/in.h>
#  include <netinet/tcp.h>
#  include <sys/socket.h>
#  include <sys/time.h>
#endif

static constexpr int CKV_PEER_SILENT   = 30; // seconds without an answer to what was sent: it is gone
static constexpr int CKV_PEER_IDLE     = 10; // seconds without traffic, then it is asked
static constexpr int CKV_PEER_INTERVAL = 5;
static constexpr int CKV_PEER_PROBES   = 4;

template <typename fd_t, typename value_t>
static void ckv_peer_set(fd_t fd, int level, int name, value_t value) {
    setsockopt(fd, level, name, (const char *) &value, sizeof(value));
}

// of a new connection: its system asks the other one when nothing is sent, and calls return now and then
template <typename fd_t>
static void ckv_peer_watch(fd_t fd) {
    ckv_peer_set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
#if defined(TCP_KEEPIDLE)
    ckv_peer_set(fd, IPPROTO_TCP, TCP_KEEPIDLE, CKV_PEER_IDLE);
#elif defined(TCP_KEEPALIVE)
    ckv_peer_set(fd, IPPROTO_TCP, TCP_KEEPALIVE, CKV_PEER_IDLE); // macOS
#endif
#if defined(TCP_KEEPINTVL) && defined(TCP_KEEPCNT)
    ckv_peer_set(fd, IPPROTO_TCP, TCP_KEEPINTVL, CKV_PEER_INTERVAL);
    ckv_peer_set(fd, IPPROTO_TCP, TCP_KEEPCNT, CKV_PEER_PROBES);
#endif
#if defined(TCP_RXT_CONNDROPTIME)
    ckv_peer_set(fd, IPPROTO_TCP, TCP_RXT_CONNDROPTIME, CKV_PEER_SILENT); // macOS
#elif defined(TCP_MAXRT)
    ckv_peer_set(fd, IPPROTO_TCP, TCP_MAXRT, CKV_PEER_SILENT); // Windows
#elif defined(__linux__)
    // TCP_USER_TIMEOUT would also end the connection to a peer that reads nothing for as long
    ckv_peer_set(fd, SOL_SOCKET, SO_RCVTIMEO, timeval { CKV_PEER_INTERVAL, 0 });
    ckv_peer_set(fd, SOL_SOCKET, SO_SNDTIMEO, timeval { CKV_PEER_INTERVAL, 0 });
#endif
}

// after a call has failed: whether only its time was up and the peer is there
template <typename fd_t>
static bool ckv_peer_is_there(fd_t fd) {
#ifdef __linux__
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
        return false;
    }
    tcp_info  info;
    socklen_t size = sizeof(info);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) {
        return false;
    }
    return info.tcpi_unacked > 0 ? info.tcpi_last_ack_recv < 1000u*CKV_PEER_SILENT : info.tcpi_probes < CKV_PEER_PROBES;
#else
    (void) fd;
    return false;
#endif
}
