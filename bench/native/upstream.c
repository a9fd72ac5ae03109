/* A model provider that answers at once: what stands behind everything that is measured.
 *
 *     cc -O2 -o upstream upstream.c
 *     upstream [PORT]           listens on 127.0.0.1 and prints its port; any free one without PORT
 *
 * Any POST is a chat completion of OpenAI's protocol, over HTTP/1.1 with keep-alive. The body says how
 * it is answered: `"stream": true` asks for server-sent events, `"include_usage": true` for the event
 * that tells the usage, and a model called `mock-TOKENS-MILLISECONDS`, as `mock-32-10`, for so many
 * tokens (32) and the time between two of them (0: back to back). Each token is a write of its own.
 *
 * One thread and one epoll, so that its own cost is small and the same for everyone. Tokens leave on ticks of a
 * millisecond, so those of many streams come in small groups, between an engine that says a token of
 * all its streams at once and many engines that know nothing of each other. A reader that is slow holds up
 * its own stream only: what its socket does not take waits in a buffer. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_PEERS = 16384, EVENTS_AT_ONCE = 512 };

typedef struct {
    char *bytes;
    size_t length, room;
} Buffer;

typedef struct {
    int fd, number;      /* `number` is its place among the streaming peers, -1 when it is none */
    bool usage;          /* whether the stream ends with its usage */
    int tokens, said;    /* of the stream: how many there are to be, and were */
    int64_t interval, due; /* nanoseconds: between tokens, and when the next one is due */
    Buffer in, out;
} Peer;

#define CHUNK(delta, reason, usage)                                                              \
    "data: {\"id\":\"chatcmpl-5c1f0a9be27d\",\"object\":\"chat.completion.chunk\","                \
    "\"created\":1750000000,\"model\":\"mock\",\"choices\":[" delta reason "]" usage "}\n\n"
#define USAGE                                                                                    \
    "\"usage\":{\"prompt_tokens\":24,\"completion_tokens\":%d,\"total_tokens\":%d}"

static const char FIRST[] =
    CHUNK("{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"Once\"}",
          ",\"logprobs\":null,\"finish_reason\":null}", "");
static const char NEXT[] = CHUNK("{\"index\":0,\"delta\":{\"content\":\" upon\"}",
                                 ",\"logprobs\":null,\"finish_reason\":null}", "");
static const char STOP[] =
    CHUNK("{\"index\":0,\"delta\":{}", ",\"logprobs\":null,\"finish_reason\":\"stop\"}", "");
static const char TOLD[] = CHUNK("", "", "," USAGE);
static const char DONE[] = "data: [DONE]\n\n";
static const char STREAM_HEAD[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                                  "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
static const char ANSWER[] =
    "{\"id\":\"chatcmpl-5c1f0a9be27d\",\"object\":\"chat.completion\",\"created\":1750000000,"
    "\"model\":\"mock\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
    "\"The fox is quick, brown and known for jumping over dogs.\"},\"logprobs\":null,"
    "\"finish_reason\":\"stop\"}]," USAGE "}";

static int poll_fd;
static Peer *streaming[MOST_PEERS];
static int streams;

static int64_t now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

static void add(Buffer *buffer, const char *bytes, size_t length) {
    if (buffer->length + length + 1 > buffer->room) {
        buffer->room = 2 * (buffer->length + length + 1);
        buffer->bytes = realloc(buffer->bytes, buffer->room);
    }
    memcpy(buffer->bytes + buffer->length, bytes, length);
    buffer->length += length;
    buffer->bytes[buffer->length] = 0;
}

static void take(Buffer *buffer, size_t length) {
    buffer->length -= length;
    memmove(buffer->bytes, buffer->bytes + length, buffer->length);
    buffer->bytes[buffer->length] = 0;
}

static void watch(Peer *peer, uint32_t events, int how) {
    struct epoll_event event = {.events = events, .data.ptr = peer};
    epoll_ctl(poll_fd, how, peer->fd, &event);
}

/* Writes what the socket takes and keeps the rest. A dead peer is noticed when it is read. */
static void say(Peer *peer, const char *bytes, size_t length) {
    ssize_t written = peer->out.length ? 0 : write(peer->fd, bytes, length);
    if (written < 0) written = 0;
    if ((size_t)written == length) return;
    if (!peer->out.length) watch(peer, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    add(&peer->out, bytes + written, length - written);
}

static void say_rest(Peer *peer) {
    ssize_t written = write(peer->fd, peer->out.bytes, peer->out.length);
    if (written > 0) take(&peer->out, written);
    if (!peer->out.length) watch(peer, EPOLLIN, EPOLL_CTL_MOD);
}

/* One event, as one chunk of the transfer coding. */
static size_t framed(char *room, const char *event) {
    return sprintf(room, "%zx\r\n%s\r\n", strlen(event), event);
}

static void end_stream(Peer *peer) {
    char room[2048], told[512];
    size_t length = framed(room, STOP);
    if (peer->usage) {
        sprintf(told, TOLD, peer->tokens, 24 + peer->tokens);
        length += framed(room + length, told);
    }
    length += framed(room + length, DONE);
    length += sprintf(room + length, "0\r\n\r\n");
    say(peer, room, length);
}

/* Says the tokens that are due; true when the stream is over. */
static bool go_on(Peer *peer, int64_t at) {
    static char first[512], next[512];
    static size_t first_length, next_length;
    if (!first_length) first_length = framed(first, FIRST), next_length = framed(next, NEXT);
    for (; peer->said < peer->tokens && peer->due <= at; peer->said++, peer->due += peer->interval)
        say(peer, peer->said ? next : first, peer->said ? next_length : first_length);
    if (peer->said < peer->tokens) return false;
    end_stream(peer);
    return true;
}

static void leave_streaming(Peer *peer) {
    if (peer->number < 0) return;
    streaming[peer->number] = streaming[--streams];
    streaming[peer->number]->number = peer->number;
    peer->number = -1;
}

/* Whether the body says `"name": true`. */
static bool asks(const char *body, const char *name) {
    const char *found = strstr(body, name);
    return found && !strncmp(found + strlen(name) + strspn(found + strlen(name), ": "), "true", 4);
}

static void answer(Peer *peer, const char *body) {
    int tokens = 16, interval = 0;
    const char *model = strstr(body, "\"mock-");
    if (model) sscanf(model, "\"mock-%d-%d", &tokens, &interval);
    if (!asks(body, "\"stream\"")) {
        char text[1024], whole[1280];
        int length = sprintf(text, ANSWER, tokens, 24 + tokens);
        length = sprintf(whole, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                                "Content-Length: %d\r\n\r\n%s", length, text);
        say(peer, whole, length);
        return;
    }
    peer->usage = asks(body, "\"include_usage\"");
    peer->tokens = tokens, peer->said = 0;
    peer->interval = interval * INT64_C(1000000);
    peer->due = now();
    say(peer, STREAM_HEAD, sizeof STREAM_HEAD - 1);
    if (go_on(peer, peer->due)) return;
    if (streams == MOST_PEERS) abort();
    peer->number = streams;
    streaming[streams++] = peer;
}

/* Length of the request that `in` begins with, its body at `*body`; 0 while it is not all there. */
static size_t whole_request(Buffer *in, size_t *body) {
    char *blank = in->length ? strstr(in->bytes, "\r\n\r\n") : NULL;
    if (!blank) return 0;
    *body = blank + 4 - in->bytes;
    *blank = 0;
    char *length = strcasestr(in->bytes, "\ncontent-length:");
    bool chunked = strcasestr(in->bytes, "\ntransfer-encoding: chunked") != NULL;
    *blank = '\r';
    if (chunked) { /* the frames stay in the body: only a few words are looked for in it */
        char *last = strstr(blank + 2, "\r\n0\r\n\r\n");
        return last ? (size_t)(last + 7 - in->bytes) : 0;
    }
    size_t all = *body + (length ? strtoul(length + 16, NULL, 10) : 0);
    return in->length >= all ? all : 0;
}

static void answer_whole_requests(Peer *peer) {
    size_t body, length;
    while (peer->number < 0 && (length = whole_request(&peer->in, &body))) {
        char after = peer->in.bytes[length];
        peer->in.bytes[length] = 0;
        answer(peer, peer->in.bytes + body);
        peer->in.bytes[length] = after;
        take(&peer->in, length);
    }
}

static void forget(Peer *peer) {
    leave_streaming(peer);
    close(peer->fd);
    free(peer->in.bytes);
    free(peer->out.bytes);
    free(peer);
}

static void hear(Peer *peer) {
    char bytes[65536];
    ssize_t length = read(peer->fd, bytes, sizeof bytes);
    if (length <= 0) {
        forget(peer);
        return;
    }
    add(&peer->in, bytes, length);
    answer_whole_requests(peer);
}

static void welcome(int listening) {
    int fd, one = 1;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        Peer *peer = calloc(1, sizeof *peer);
        peer->fd = fd, peer->number = -1;
        watch(peer, EPOLLIN, EPOLL_CTL_ADD);
    }
}

static void go_on_with_all(void) {
    int64_t at = now();
    for (int number = streams - 1; number >= 0; number--) { /* whoever leaves moves a later one */
        Peer *peer = streaming[number];
        if (peer->due > at || !go_on(peer, at)) continue;
        leave_streaming(peer);
        answer_whole_requests(peer);
    }
}

static int listen_on(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&address, size) || listen(fd, 4096)) {
        perror("upstream");
        exit(1);
    }
    getsockname(fd, (void *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

int main(int count, char **words) {
    signal(SIGPIPE, SIG_IGN);
    int listening = listen_on(count > 1 ? atoi(words[1]) : 0);
    poll_fd = epoll_create1(0);
    struct epoll_event events[EVENTS_AT_ONCE], door = {.events = EPOLLIN};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, listening, &door);
    for (;;) {
        int ready = epoll_wait(poll_fd, events, EVENTS_AT_ONCE, streams ? 1 : -1);
        for (int i = 0; i < ready; i++) {
            Peer *peer = events[i].data.ptr;
            if (!peer) welcome(listening);
            else if (events[i].events & ~EPOLLOUT) hear(peer);
            else say_rest(peer);
        }
        if (streams) go_on_with_all();
    }
}
