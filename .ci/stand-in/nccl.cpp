// A stand-in for NVIDIA's NCCL: lists of f32 go from one rank to another as files in a folder, which the unique id names. Ranks may be
// threads or processes of one machine. Nothing waits before the end of a group, where everything is sent and then received.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

extern "C" {
void cuda_stand_in_count(const char* what, unsigned long long bytes);
void cuda_stand_in_check(const void* pointer, size_t bytes, const char* what);
}

namespace {
using Result = int;
enum : Result { SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6 };
constexpr int F32 = 7;
constexpr int PATIENCE = 60 * 1000 * 10;  // Of 100 us.

struct UniqueId {
    char folder[128];
};

struct Communicator {
    std::string folder;
    int rank, count;
    std::map<int, int> sent, received;  // Lists to and from each rank.
};

struct Transfer {
    Communicator* communicator;
    bool sends;
    void* numbers;
    size_t bytes;
    int peer;
};

thread_local int groups = 0;
thread_local std::vector<Transfer> queued;

std::string list(const Communicator& of, int from, int to, int number) {
    return of.folder + "/" + std::to_string(from) + "-" + std::to_string(to) + "-" + std::to_string(number);
}

// Appears as a whole.
bool write(const std::string& path, const void* bytes, size_t count) {
    FILE* file = std::fopen((path + ".part").c_str(), "wb");
    if (!file) return false;
    const bool whole = std::fwrite(bytes, 1, count, file) == count;
    return std::fclose(file) == 0 && whole && std::rename((path + ".part").c_str(), path.c_str()) == 0;
}

bool wait_for(const std::string& path, struct stat& status) {
    for (int i = 0; i < PATIENCE; ++i, usleep(100))
        if (!stat(path.c_str(), &status)) return true;
    return false;
}

Result run(const Transfer& transfer) {
    Communicator& own = *transfer.communicator;
    if (transfer.sends) {
        const std::string path = list(own, own.rank, transfer.peer, own.sent[transfer.peer]++);
        cuda_stand_in_count("list sent", transfer.bytes);
        return write(path, transfer.numbers, transfer.bytes) ? SUCCESS : SYSTEM_ERROR;
    }
    const std::string path = list(own, transfer.peer, own.rank, own.received[transfer.peer]++);
    struct stat status;
    if (!wait_for(path, status)) return REMOTE_ERROR;
    if (size_t(status.st_size) != transfer.bytes) return INVALID_ARGUMENT;
    FILE* file = std::fopen(path.c_str(), "rb");
    if (!file) return SYSTEM_ERROR;
    const bool whole = std::fread(transfer.numbers, 1, transfer.bytes, file) == transfer.bytes;
    std::fclose(file);
    return unlink(path.c_str()) == 0 && whole ? SUCCESS : SYSTEM_ERROR;
}

// Every list is sent before any is waited for.
Result run_queued() {
    Result result = SUCCESS;
    for (const bool sends : {true, false})
        for (const Transfer& transfer : queued)
            if (transfer.sends == sends && result == SUCCESS) result = run(transfer);
    queued.clear();
    return result;
}

Result queue(void* communicator, bool sends, void* numbers, size_t count, int type, int peer) {
    Communicator* own = static_cast<Communicator*>(communicator);
    if (type != F32 || peer < 0 || peer >= own->count) return INVALID_ARGUMENT;
    cuda_stand_in_check(numbers, count * sizeof(float), sends ? "a list that is sent" : "a list that is received");
    queued.push_back({own, sends, numbers, count * sizeof(float), peer});
    return groups ? SUCCESS : run_queued();
}
}  // namespace

extern "C" {
Result ncclGetUniqueId(UniqueId* id) {
    const char* parent = std::getenv("TMPDIR");
    std::snprintf(id->folder, sizeof id->folder, "%s/nccl-XXXXXX", parent ? parent : "/tmp");
    return mkdtemp(id->folder) ? SUCCESS : SYSTEM_ERROR;
}

// Returns when all ranks are here.
Result ncclCommInitRank(void** communicator, int count, UniqueId id, int rank) {
    if (rank < 0 || rank >= count) return INVALID_ARGUMENT;
    Communicator* own = new Communicator{id.folder, rank, count, {}, {}};
    *communicator = own;
    struct stat status;
    if (!write(own->folder + "/" + std::to_string(rank), "", 0)) return SYSTEM_ERROR;
    for (int other = 0; other < count; ++other)
        if (!wait_for(own->folder + "/" + std::to_string(other), status)) return REMOTE_ERROR;
    return SUCCESS;
}

// The last rank finds the folder empty.
Result ncclCommAbort(void* communicator) {
    Communicator* own = static_cast<Communicator*>(communicator);
    unlink((own->folder + "/" + std::to_string(own->rank)).c_str());
    rmdir(own->folder.c_str());
    delete own;
    return SUCCESS;
}

Result ncclGroupStart() { return ++groups, SUCCESS; }
Result ncclGroupEnd() {
    if (!groups) return INVALID_USAGE;
    return --groups ? SUCCESS : run_queued();
}
Result ncclSend(const void* numbers, size_t count, int type, int peer, void* communicator, void*) {
    return queue(communicator, true, const_cast<void*>(numbers), count, type, peer);
}
Result ncclRecv(void* numbers, size_t count, int type, int peer, void* communicator, void*) {
    return queue(communicator, false, numbers, count, type, peer);
}
}
