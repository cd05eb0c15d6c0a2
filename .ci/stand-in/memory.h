// Device memory that is memory of this process, with margins that must not be written. It is NaN until it is written.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

class Memory {
public:
    // Null if there is not enough memory.
    void* allocate(size_t bytes) {
        void* whole = nullptr;
        if (posix_memalign(&whole, MARGIN, bytes + 2 * MARGIN)) return nullptr;
        char* first = static_cast<char*>(whole) + MARGIN;
        std::memset(first - MARGIN, PATTERN, MARGIN);
        std::memset(first, 0xff, bytes);
        std::memset(first + bytes, PATTERN, MARGIN);
        std::lock_guard<std::mutex> guard(lock);
        sizes[first] = bytes;
        live += bytes;
        if (live > peak) peak = live;
        return first;
    }

    // The fault in freeing this memory; empty if there is none.
    std::string release(void* pointer) {
        std::lock_guard<std::mutex> guard(lock);
        char* first = static_cast<char*>(pointer);
        auto found = sizes.find(first);
        if (found == sizes.end()) return "memory is freed that was not allocated, or twice";
        const size_t bytes = found->second;
        sizes.erase(found);
        live -= bytes;
        const bool whole = untouched(first - MARGIN) && untouched(first + bytes);
        std::free(first - MARGIN);
        return whole ? "" : "a write beyond an allocation of " + std::to_string(bytes) + " bytes";
    }

    // Whether these bytes are within one allocation.
    bool holds(const void* pointer, size_t bytes) {
        std::lock_guard<std::mutex> guard(lock);
        const char* first = static_cast<const char*>(pointer);
        auto after = sizes.upper_bound(const_cast<char*>(first));
        if (after == sizes.begin()) return false;
        --after;
        return first + bytes <= after->first + after->second;
    }

    size_t most() {
        std::lock_guard<std::mutex> guard(lock);
        return peak;
    }

private:
    static constexpr size_t MARGIN = 256;
    static constexpr unsigned char PATTERN = 0xa5;

    static bool untouched(const char* margin) {
        for (size_t i = 0; i < MARGIN; ++i)
            if (static_cast<unsigned char>(margin[i]) != PATTERN) return false;
        return true;
    }

    std::mutex lock;
    std::map<char*, size_t> sizes;
    size_t live = 0, peak = 0;
};
