/* A load generator for chat completions: JSON and server-sent events over HTTP/1.1 on 127.0.0.1.
 *
 *     cc -O2 -o load load.c
 *     load PORT -b BODY [-c connections] [-d seconds] [-w seconds] [-g seconds] [-r per second]
 *                       [-l share -L milliseconds] [-P path] [-H "Name: value"]...
 *
 * Closed loop: each of -c connections sends its next request when its last one is answered; they begin
 * one by one over half of the warm-up, since streams that begin together would stay in step. With -r an
 * open loop: requests fall due at that rate and their latency counts from then, sent or not, so that a
 * stall is not left out of the figures. After -w seconds of warm-up the window of -d seconds opens; then
 * what runs may end for -g seconds. With -l that share of the requests is left by its client within
 * -L milliseconds, every second time by a reset.
 *
 * Prints `opened` and `closed` at the window's ends, for whoever reads other clocks at those moments, then
 * one line of JSON: what was completed and received within the window, and all errors from first to last.
 * Whole is an answer with a status of 200, all bytes that it announced and, of a stream, `data: [DONE]` and
 * no error. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
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

enum { HEAD = 16384, LINE = 16, EVENTS_AT_ONCE = 512 };

typedef enum { STATUS_LINE_AND_HEADERS, SIZE, SIZE_REST, DATA, DATA_END, TRAILER, TO_THE_END } Place;

typedef struct {
    int fd;
    bool busy, closes, is_stream, answered; /* `answered`: the body has begun */
    bool done, failed;              /* [DONE] was there; an error event was */
    int status;
    double begins;                  /* when the first request is sent */
    double due, leaves;             /* when it was to be sent, and will be left (0: never) */
    Place place;
    bool chunked;
    int64_t left;                   /* bytes of the body or of the chunk */
    int head_length, line_length;
    char head[HEAD], line[LINE];    /* beginnings of the answer and of the line that is read */
} Client;

typedef struct {
    double *values;
    long count, room;
} Samples;

static struct {
    int port, clients;
    double seconds, warm_up, grace, rate, leaving, leave_within;
    const char *path, *body;
    char headers[8192];
} told = {.clients = 16, .seconds = 8, .warm_up = 1, .grace = 2, .leave_within = 0.3,
          .path = "/v1/chat/completions"};

static struct {
    long sent, whole, events, bytes, left, reconnects;
    long unconnected, status, broken, error_events;
    Samples latency, first_byte;
    char first_error[400];
} seen;

static int poll_fd;
static Client *clients;
static char *request;
static size_t request_length;
static bool open_window;   /* whether what happens now counts */
static bool no_more;       /* whether nothing is to be sent any more */

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec * 1e-9;
}

/* A number from 0 to 1 (xorshift64, always the same ones). */
static double chance(void) {
    static uint64_t state = 88172645463325252u;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (state >> 11) * 0x1p-53;
}

static void keep(Samples *samples, double value) {
    if (samples->count == samples->room) {
        samples->room = samples->room ? 2 * samples->room : 4096;
        samples->values = realloc(samples->values, samples->room * sizeof(double));
    }
    samples->values[samples->count++] = value;
}

static void note(long *errors, const char *what, const char *detail) {
    ++*errors;
    if (!seen.first_error[0])
        snprintf(seen.first_error, sizeof seen.first_error, "%s %.300s", what, detail);
}

static void hang_up(Client *client) {
    if (client->fd >= 0) close(client->fd);
    client->fd = -1;
    client->busy = false;
}

static bool dial(Client *client) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(told.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (void *)&address, sizeof address)) {
        note(&seen.unconnected, "connect:", strerror(errno));
        close(fd);
        return false;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    client->fd = fd;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event);
    return true;
}

/* Sends the next request. A request fits into the socket's buffer: writing does not block. */
static void ask(Client *client, double due) {
    if (client->fd < 0 && !dial(client)) return;
    client->busy = true;
    client->closes = client->is_stream = client->answered = client->chunked = false;
    client->done = client->failed = false;
    client->status = client->head_length = client->line_length = 0;
    client->place = STATUS_LINE_AND_HEADERS;
    client->due = due, client->left = -1;
    client->leaves = chance() < told.leaving ? now() + chance() * told.leave_within : 0;
    seen.sent++;
    /* what a closed connection refuses is noticed when it is read */
    if (send(client->fd, request, request_length, MSG_NOSIGNAL) < 0) return;
}

static void ask_again(Client *client) {
    double at = now();
    if (!no_more && !told.rate && at >= client->begins) ask(client, at);
}

static void leave(Client *client) {
    static bool by_reset;
    struct linger at_once = {.l_onoff = 1};
    if ((by_reset = !by_reset))
        setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    hang_up(client);
    seen.left++;
    ask_again(client);
}

/* The answer is over: `complete`, as far as its framing says. */
static void end(Client *client, bool complete) {
    client->busy = false;
    if (client->status != 200) {
        if (client->status) note(&seen.status, "status:", client->head);
        else note(&seen.broken, "closed", "before a status");
    } else if (client->failed) note(&seen.error_events, "an error", "event");
    else if (!complete || (client->is_stream && !client->done)) note(&seen.broken, "not", "whole");
    else if (open_window) {
        seen.whole++;
        keep(&seen.latency, now() - client->due);
    }
    if (client->closes || !complete) hang_up(client);
    ask_again(client);
}

static void end_line(Client *client) {
    if (client->line_length >= 5 && !memcmp(client->line, "data:", 5)) {
        if (open_window) seen.events++;
        if (client->line_length >= 12 && !memcmp(client->line, "data: [DONE]", 12)) client->done = true;
        if (client->line_length >= 13 && !memcmp(client->line, "data: {\"error", 13)) client->failed = true;
    }
    client->line_length = 0;
}

/* Looks for the events of a stream in bytes of its body, cut wherever they were. */
static void read_events(Client *client, const char *bytes, size_t length) {
    while (length) {
        const char *end_of_line = memchr(bytes, '\n', length);
        size_t part = end_of_line ? (size_t)(end_of_line - bytes) : length;
        for (size_t i = 0; i < part && client->line_length < LINE; i++)
            client->line[client->line_length++] = bytes[i];
        if (!end_of_line) return;
        end_line(client);
        bytes += part + 1, length -= part + 1;
    }
}

/* Takes what belongs to the head; returns how much that was. */
static size_t read_head(Client *client, const char *bytes, size_t length) {
    size_t before = client->head_length, room = HEAD - 1 - before;
    size_t part = length < room ? length : room;
    memcpy(client->head + before, bytes, part);
    client->head[client->head_length += part] = 0;
    char *blank = strstr(client->head, "\r\n\r\n");
    if (!blank) return part; /* a head that is too long never ends, and its answer is broken */
    blank[2] = 0;
    const char *size = strcasestr(client->head, "\ncontent-length:");
    if (strlen(client->head) > 12) client->status = atoi(client->head + 9);
    client->chunked = strcasestr(client->head, "\ntransfer-encoding: chunked") != NULL;
    client->is_stream = strcasestr(client->head, "text/event-stream") != NULL;
    client->left = client->chunked ? 0 : size ? atoll(size + 16) : -1;
    client->closes = strcasestr(client->head, "\nconnection: close") != NULL || (!client->chunked && !size);
    client->place = client->chunked ? SIZE : size ? DATA : TO_THE_END;
    return blank + 4 - client->head - before;
}

static size_t read_body(Client *client, const char *bytes, size_t length) {
    if (!client->answered) {
        client->answered = true;
        if (open_window && client->status == 200) keep(&seen.first_byte, now() - client->due);
    }
    size_t part = client->left >= 0 && (size_t)client->left < length ? (size_t)client->left : length;
    if (client->is_stream) read_events(client, bytes, part);
    if (client->left > 0 && !(client->left -= part) && client->chunked) client->place = DATA_END;
    return part;
}

/* One byte of a chunk's size; then comes its data, or the trailer of the last one. */
static void read_size(Client *client, char byte) {
    if (byte == '\n') client->place = client->left ? DATA : TRAILER;
    else if (client->place == SIZE_REST || byte == '\r' || byte == ';') client->place = SIZE_REST;
    else client->left = 16 * client->left + (byte <= '9' ? byte - '0' : (byte | 32) - 'a' + 10);
}

/* Reads an answer; false when it is over, or more came than there should be. */
static bool read_answer(Client *client, const char *bytes, size_t length) {
    if (open_window) seen.bytes += length;
    while (length) {
        size_t part = 1;
        switch (client->place) {
        case STATUS_LINE_AND_HEADERS: part = read_head(client, bytes, length); break;
        case DATA: case TO_THE_END: part = read_body(client, bytes, length); break;
        case SIZE: case SIZE_REST: read_size(client, *bytes); break;
        case DATA_END: if (*bytes == '\n') client->place = SIZE; break;
        case TRAILER: /* lines up to an empty one; `left` counts the characters of a line */
            if (*bytes == '\n' && !client->left) return false;
            client->left = *bytes == '\n' ? 0 : client->left + (*bytes != '\r');
            break;
        }
        bytes += part, length -= part;
        if (client->place == DATA && !client->chunked && !client->left) return false;
        if (client->place == STATUS_LINE_AND_HEADERS && client->head_length == HEAD - 1) return false;
    }
    return true;
}

static void hear(Client *client) {
    static char bytes[262144];
    ssize_t length = recv(client->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (length < 0 && errno == EAGAIN) return;
    if (length > 0) {
        if (client->busy && !read_answer(client, bytes, length)) end(client, true);
        return;
    }
    if (!client->busy) { /* an idle connection that the server does not keep */
        hang_up(client);
        seen.reconnects++;
        return;
    }
    client->closes = true;
    end(client, client->place == TO_THE_END);
}

/* Sends what has fallen due; what finds no idle connection stays due. */
static void send_due(double *next) {
    double at = now();
    for (int i = 0; i < told.clients && *next <= at && !no_more; i++)
        if (!clients[i].busy) {
            ask(&clients[i], *next);
            *next += 1 / told.rate;
        }
}

static void begin_and_leave(void) {
    double at = now();
    for (int i = 0; i < told.clients; i++) {
        Client *client = &clients[i];
        if (client->busy && client->leaves && client->leaves <= at) leave(client);
        else if (!client->busy) ask_again(client);
    }
}

static bool any_busy(void) {
    for (int i = 0; i < told.clients; i++)
        if (clients[i].busy) return true;
    return false;
}

/* Goes on until the moment `until`, or until nothing runs when nothing more is sent. */
static void run(double until) {
    static struct epoll_event events[EVENTS_AT_ONCE];
    static double next_due, next_look, all_begun;
    if (!next_due) next_due = now(), all_begun = next_due + told.warm_up / 2;
    for (double at; (at = now()) < until && !(no_more && !any_busy());) {
        if (told.rate > 0) send_due(&next_due);
        if (at >= next_look || at < all_begun) begin_and_leave(), next_look = at + 0.005;
        int wait = at < all_begun ? 0 : told.rate > 0 && next_due - at < 0.005 ? 1 : 5;
        int ready = epoll_wait(poll_fd, events, EVENTS_AT_ONCE, wait);
        for (int i = 0; i < ready; i++) hear(events[i].data.ptr);
    }
}

static int ascending(const void *one, const void *other) {
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

static void print_samples(const char *name, Samples *samples) {
    static const double shares[] = {0.5, 0.9, 0.99, 1};
    static const char *names[] = {"p50", "p90", "p99", "max"};
    qsort(samples->values, samples->count, sizeof(double), ascending);
    printf("\"%s_us\": {", name);
    for (int i = 0; i < 4; i++) {
        double value = samples->count ? samples->values[(long)(shares[i] * (samples->count - 1) + 0.5)] : 0;
        printf("\"%s\": %.1f%s", names[i], value * 1e6, i < 3 ? ", " : "}, ");
    }
}

static void say(const char *word) {
    printf("%s\n", word);
    fflush(stdout);
}

static void print_figures(double seconds) {
    printf("{\"seconds\": %.4f, \"sent\": %ld, \"whole\": %ld, \"events\": %ld, \"bytes\": %ld, \"left\": %ld, "
           "\"reconnects\": %ld, ", seconds, seen.sent, seen.whole, seen.events, seen.bytes, seen.left,
           seen.reconnects);
    print_samples("latency", &seen.latency);
    print_samples("first_byte", &seen.first_byte);
    for (char *sign = seen.first_error; *sign; sign++)
        if (*sign < ' ' || *sign == '"' || *sign == '\\') *sign = ' ';
    printf("\"errors\": {\"unconnected\": %ld, \"status\": %ld, \"broken\": %ld, \"error_events\": %ld}, "
           "\"first_error\": \"%s\"}\n", seen.unconnected, seen.status, seen.broken, seen.error_events,
           seen.first_error);
}

static void read_options(int count, char **words) {
    for (int option; (option = getopt(count, words, "b:c:d:w:g:r:l:L:P:H:")) > 0;) switch (option) {
        case 'b': told.body = optarg; break;
        case 'c': told.clients = atoi(optarg); break;
        case 'd': told.seconds = atof(optarg); break;
        case 'w': told.warm_up = atof(optarg); break;
        case 'g': told.grace = atof(optarg); break;
        case 'r': told.rate = atof(optarg); break;
        case 'l': told.leaving = atof(optarg); break;
        case 'L': told.leave_within = atof(optarg) / 1000; break;
        case 'P': told.path = optarg; break;
        case 'H':
            strncat(told.headers, optarg, sizeof told.headers - strlen(told.headers) - 3);
            strcat(told.headers, "\r\n");
            break;
        default: exit(2);
    }
    if (optind < count) told.port = atoi(words[optind]);
    if (!told.port || !told.body || told.clients < 1) {
        fprintf(stderr, "load PORT -b BODY …: load.c says what else\n");
        exit(2);
    }
    asprintf(&request, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                       "Accept: */*\r\n%sContent-Length: %zu\r\n\r\n%s",
             told.path, told.port, told.headers, strlen(told.body), told.body);
    request_length = strlen(request);
}

int main(int count, char **words) {
    signal(SIGPIPE, SIG_IGN);
    read_options(count, words);
    poll_fd = epoll_create1(0);
    clients = calloc(told.clients, sizeof *clients);
    for (int i = 0; i < told.clients; i++)
        clients[i].fd = -1, clients[i].begins = now() + chance() * told.warm_up / 2;
    run(now() + told.warm_up);
    double opened = now();
    open_window = true;
    say("opened");
    run(opened + told.seconds);
    open_window = false;
    double seconds = now() - opened;
    say("closed");
    no_more = true;
    run(now() + told.grace);
    print_figures(seconds);
}
