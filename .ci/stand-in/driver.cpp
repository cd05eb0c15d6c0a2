// A stand-in for NVIDIA's driver, libcuda.so.1. Its device is this process: device memory is memory of the process, a launch runs the
// kernel compiled for the CPU (cuda_on_host.h), and all streams share one order.
//
// It is stricter than the driver. Memory is NaN until it is written. The process ends with a message if a kernel is missing, if the
// emulation finds a fault, if a copy or a write is outside of an allocation, or if memory is freed twice.
//
// CUDA_STAND_IN_COUNTS=file   calls and bytes, by phases
// CUDA_STAND_IN_COMPUTE=0     kernels and products are counted, not run
// CUDA_STAND_IN_SEED=n        the order of threads: 0 ascending, 1 descending, others random
// CUDA_STAND_IN_NO_DEVICE=1   a computer without a GPU
// CUDA_STAND_IN_DRIVER=12040  a driver for CUDA 12.4, which refuses the PTX of newer toolkits; 13.0 by default
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>

#include "counts.h"
#include "graph.h"
#include "memory.h"

extern "C" {
int cuda_on_host_launch(const char*, const unsigned*, const unsigned*, unsigned, unsigned, void**);
int cuda_on_host_record(const char*, const unsigned*, const unsigned*, unsigned, void**, std::function<bool()>*);
const char* cuda_on_host_fault();
}

namespace {
using Result = int;
using Address = unsigned long long;
enum : Result { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, UNSUPPORTED_PTX = 222 };

struct Function {
    std::string name;
    int most_shared_bytes = 48 * 1024;
};

Counts counts;
// Never destroyed: a program's own tensors may be freed after it.
Memory& memory = *new Memory;
// The graph that is being recorded, on any stream, or null.
Graph* recording = nullptr;
std::map<void*, GraphMemory>& graph_memory = *new std::map<void*, GraphMemory>;
std::mutex functions_lock;
std::map<std::string, Function> functions;

[[noreturn]] void fail(const std::string& message) {
    std::fprintf(stderr, "CUDA stand-in: %s\n", message.c_str());
    std::abort();
}

const char* setting(const char* name) { return std::getenv(name); }

// The newest version of CUDA that the driver supports: 13000 is 13.0.
int driver() {
    const char* value = setting("CUDA_STAND_IN_DRIVER");
    return value ? std::atoi(value) : 13000;
}

// Whether the driver is new enough for PTX. Since CUDA 11, the version of a toolkit's PTX is 4 less: 8.4 with CUDA 12.4.
bool supports(const char* ptx) {
    const char* version = std::strstr(ptx, ".version ");
    int major, minor;
    return version && std::sscanf(version, ".version %d.%d", &major, &minor) == 2 && (major + 4) * 1000 + minor * 10 <= driver();
}

bool computes() {
    static const bool computes = [] {
        const char* value = setting("CUDA_STAND_IN_COMPUTE");
        return !value || std::strcmp(value, "0");
    }();
    return computes;
}

void check_range(Address address, size_t bytes, const char* what) {
    if (bytes && !memory.holds(reinterpret_cast<void*>(address), bytes))
        fail(std::string(what) + " of " + std::to_string(bytes) + " bytes outside of an allocation");
}

void* handle(uintptr_t number) { return reinterpret_cast<void*>(number); }

// Fails while a graph is recorded, for calls that would run once and not in each replay.
void not_recorded(const char* what) {
    if (recording) fail(std::string(what) + " while a graph is recorded");
}

// Counts `work`, and runs it now or, if a graph is being recorded, in each replay of the graph.
void queue(const std::string& what, size_t bytes, std::function<void()> work) {
    counts.add(recording ? "recorded " + what : what, bytes);
    recording ? recording->nodes.push_back(std::move(work)) : work();
}

// An allocation of a graph keeps its address as long as the graph exists. It is filled with NaN each time that a replay allocates it.
Result allocate(Address* address, size_t bytes, const char* call) {
    counts.add(recording ? std::string("recorded ") + call : call, bytes);
    void* pointer = memory.allocate(bytes);
    *address = reinterpret_cast<Address>(pointer);
    if (!pointer) return OUT_OF_MEMORY;
    if (recording) {
        graph_memory[pointer] = {recording, bytes, false};
        recording->nodes.push_back([=] {
            graph_memory[pointer].freed = false;
            std::memset(pointer, 0xff, bytes);
        });
    }
    return SUCCESS;
}

Result release(Address address, const char* call) {
    counts.add(recording ? std::string("recorded ") + call : call);
    void* pointer = reinterpret_cast<void*>(address);
    const auto found = graph_memory.find(pointer);
    if (recording && (found == graph_memory.end() || found->second.graph != recording))
        fail("memory from before a recording is freed in it");
    if (found == graph_memory.end()) {
        const std::string fault = memory.release(pointer);
        if (!fault.empty()) fail(fault);
        return SUCCESS;
    }
    const auto free = [=] {
        GraphMemory& of_graph = graph_memory[pointer];
        if (of_graph.freed) fail("memory of a graph is freed that a replay has not allocated, or twice");
        of_graph.freed = true;
        std::memset(pointer, 0xff, of_graph.bytes);
    };
    if (recording) {
        recording->nodes.push_back(free);
    } else {
        free();
    }
    return SUCCESS;
}

Result destroy(Graph* graph) {
    for (auto at = graph_memory.begin(); at != graph_memory.end();) {
        if (at->second.graph != graph) {
            ++at;
            continue;
        }
        // Memory that is still in use belongs to the program from now on.
        if (at->second.freed) {
            const std::string fault = memory.release(at->first);
            if (!fault.empty()) fail(fault);
        }
        at = graph_memory.erase(at);
    }
    delete graph;
    return SUCCESS;
}
}  // namespace

extern "C" {
void cuda_stand_in_phase(const char* name) { counts.begin(name); }
void cuda_stand_in_count(const char* what, unsigned long long bytes) {
    counts.add(recording ? std::string("recorded ") + what : what, bytes);
}
int cuda_stand_in_computes() { return computes(); }
unsigned long long cuda_stand_in_peak() { return memory.most(); }
void cuda_stand_in_check(const void* pointer, size_t bytes, const char* what) {
    check_range(reinterpret_cast<Address>(pointer), bytes, what);
}
// Returns whether a graph is being recorded, and adds `work` to it in that case.
int cuda_stand_in_record(const std::function<void()>& work) {
    if (recording) recording->nodes.push_back(work);
    return recording != nullptr;
}
// Called by the driver's functions that the stand-in lacks (build.sh).
int cuda_stand_in_missing(const char* name) { fail(std::string(name) + " is not there"); }

Result cuInit(unsigned) { return setting("CUDA_STAND_IN_NO_DEVICE") ? NO_DEVICE : SUCCESS; }
Result cuDriverGetVersion(int* version) { return *version = driver(), SUCCESS; }
Result cuDeviceGet(int* device, int number) { return *device = number, number == 0 ? SUCCESS : INVALID_DEVICE; }
Result cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
Result cuDeviceGetName(char* name, int length, int) { return std::snprintf(name, length, "stand-in"), SUCCESS; }
Result cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 16: *value = 132; break;  // Multiprocessors.
        case 75: *value = 9; break;    // Compute capability 9.0.
        case 76: *value = 0; break;
        case 97: *value = 227 * 1024; break;  // Shared memory of a block.
        case 115: *value = 1; break;          // Pools of memory.
        default: *value = 1024;
    }
    return SUCCESS;
}
Result cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = size_t(80) << 30, SUCCESS; }
Result cuDeviceGetUuid_v2(char* uuid, int) { return std::memset(uuid, 0, 16), SUCCESS; }

Result cuDevicePrimaryCtxRetain(void** context, int) { return *context = handle(1), SUCCESS; }
Result cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
Result cuCtxSetCurrent(void*) { return counts.add("context"), SUCCESS; }
Result cuCtxGetCurrent(void** context) { return counts.add("context"), *context = handle(1), SUCCESS; }
Result cuCtxSynchronize() { return not_recorded("a wait"), counts.add("wait"), SUCCESS; }

Result cuStreamCreate(void** stream, unsigned) { return *stream = handle(16), SUCCESS; }
Result cuStreamDestroy_v2(void*) { return SUCCESS; }
Result cuStreamSynchronize(void*) { return not_recorded("a wait"), counts.add("wait"), SUCCESS; }
Result cuStreamWaitEvent(void*, void*, unsigned) { return counts.add("event waited for"), SUCCESS; }

Result cuStreamIsCapturing(void*, int* status) { return *status = recording != nullptr, SUCCESS; }
Result cuStreamBeginCapture_v2(void*, int) {
    not_recorded("a recording");
    return recording = new Graph, SUCCESS;
}
Result cuStreamEndCapture(void*, void** graph) {
    *graph = recording;
    return recording = nullptr, SUCCESS;
}
// Only accepts CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH: a replay frees the memory that the one before did not free. Without the
// flag, such memory would be an error.
Result cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long flags) {
    counts.add("graph made");
    return *exec = graph, flags == 1 ? SUCCESS : INVALID_VALUE;
}
Result cuGraphLaunch(void* exec, void*) {
    not_recorded("a graph");
    counts.add("graph");
    for (auto& node : static_cast<Graph*>(exec)->nodes) node();
    return SUCCESS;
}
Result cuGraphExecDestroy(void*) { return SUCCESS; }
Result cuGraphDestroy(void* graph) { return destroy(static_cast<Graph*>(graph)); }

Result cuEventCreate(void** event, unsigned) { return counts.add("event created"), *event = handle(1), SUCCESS; }
Result cuEventRecord(void*, void*) { return counts.add("event recorded"), SUCCESS; }
Result cuEventDestroy_v2(void*) { return counts.add("event destroyed"), SUCCESS; }
Result cuEventSynchronize(void*) { return counts.add("wait"), SUCCESS; }
Result cuEventQuery(void*) { return SUCCESS; }
Result cuEventElapsedTime_v2(float* ms, void*, void*) { return *ms = 1, SUCCESS; }

Result cuMemAllocAsync(Address* address, size_t bytes, void*) { return allocate(address, bytes, "allocation"); }
Result cuMemAlloc_v2(Address* address, size_t bytes) { return allocate(address, bytes, "allocation that waits"); }
Result cuMemFreeAsync(Address address, void*) { return release(address, "free"); }
Result cuMemFree_v2(Address address) { return release(address, "free that waits"); }
Result cuMemGetInfo_v2(size_t* free, size_t* total) { return *free = *total = size_t(80) << 30, SUCCESS; }
Result cuMemHostAlloc(void** memory, size_t bytes, unsigned) { return *memory = std::malloc(bytes), SUCCESS; }
Result cuMemFreeHost(void* memory) { return std::free(memory), SUCCESS; }
Result cuDeviceGetDefaultMemPool(void** pool, int) { return *pool = handle(1), SUCCESS; }
Result cuDeviceGetMemPool(void** pool, int) { return *pool = handle(1), SUCCESS; }
Result cuMemPoolTrimTo(void*, size_t) { return not_recorded("trimming a pool"), counts.add("pool trimmed"), SUCCESS; }
// The most memory in use.
Result cuMemPoolGetAttribute(void*, int, void* value) { return *static_cast<uint64_t*>(value) = memory.most(), SUCCESS; }
Result cuDeviceGetGraphMemAttribute(int, int, void* value) { return *static_cast<uint64_t*>(value) = 0, SUCCESS; }
Result cuDeviceSetGraphMemAttribute(int, int, void*) { return SUCCESS; }
Result cuMemPoolSetAttribute(void*, int, void*) { return counts.add("pool attribute"), SUCCESS; }

Result cuMemsetD8Async(Address address, unsigned char value, size_t bytes, void*) {
    check_range(address, bytes, "a memset");
    queue("memset", bytes, [=] { std::memset(reinterpret_cast<void*>(address), value, bytes); });
    return SUCCESS;
}
Result cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void*) {
    // A graph would read the host's memory in each replay, when it may have been freed.
    not_recorded("a copy to the device");
    counts.add(bytes <= 4096 ? "copy to the device, at most 4 KiB" : "copy to the device, larger", bytes);
    check_range(to, bytes, "a copy");
    return std::memcpy(reinterpret_cast<void*>(to), from, bytes), SUCCESS;
}
Result cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void*) {
    not_recorded("a copy to the host");
    counts.add("copy to the host", bytes);
    check_range(from, bytes, "a copy");
    return std::memcpy(to, reinterpret_cast<void*>(from), bytes), SUCCESS;
}
Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void*) {
    check_range(from, bytes, "a copy");
    check_range(to, bytes, "a copy");
    queue("copy on the device", bytes,
          [=] { std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes); });
    return SUCCESS;
}

Result cuModuleLoadData(void** module, const void* ptx) {
    not_recorded("loading of kernels");
    if (!supports(static_cast<const char*>(ptx))) return UNSUPPORTED_PTX;
    return counts.add("module loaded"), *module = handle(1), SUCCESS;
}
Result cuModuleUnload(void*) { return SUCCESS; }
Result cuModuleGetFunction(void** function, void*, const char* name) {
    counts.add("function found");
    std::lock_guard<std::mutex> guard(functions_lock);
    Function& found = functions[name];
    found.name = name;
    *function = &found;
    return SUCCESS;
}
Result cuFuncSetAttribute(void* function, int attribute, int value) {
    counts.add("function attribute");
    if (attribute == 8) static_cast<Function*>(function)->most_shared_bytes = value;
    return value > 227 * 1024 ? INVALID_VALUE : SUCCESS;
}
Result cuFuncGetAttribute(int* value, int, void*) { return *value = 0, SUCCESS; }

Result cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared_bytes, void*, void** arguments, void**) {
    const Function& kernel = *static_cast<Function*>(function);
    if (!gx || !gy || !gz || !bx || !by || !bz || int(shared_bytes) > kernel.most_shared_bytes) return INVALID_VALUE;
    static const unsigned seed = setting("CUDA_STAND_IN_SEED") ? std::atoi(setting("CUDA_STAND_IN_SEED")) : 0;
    const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    // The emulation has one block's state for the whole process.
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> guard(one_at_a_time);
    const auto check = [&kernel](int code) {
        if (code == 1) fail("there is no kernel " + kernel.name);
        if (code) fail("kernel " + kernel.name + ": " + cuda_on_host_fault());
    };
    if (recording) {
        std::function<bool()> launch;
        check(cuda_on_host_record(kernel.name.c_str(), grid, block, shared_bytes, arguments, &launch));
        queue("kernel " + kernel.name, 0, [=] {
            if (computes()) check(launch() ? 0 : 2);
        });
        return SUCCESS;
    }
    counts.add("kernel " + kernel.name);
    if (computes()) check(cuda_on_host_launch(kernel.name.c_str(), grid, block, shared_bytes, seed, arguments));
    return SUCCESS;
}

Result cuGetErrorName(int, const char** name) { return *name = "an error of the stand-in", SUCCESS; }
Result cuGetErrorString(int, const char** text) { return *text = "an error of the stand-in", SUCCESS; }
}
