// Counts of a program's calls of the driver, by phase. The program begins a phase with `cuda_stand_in_phase`.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

class Counts {
public:
    void add(const std::string& what, uint64_t bytes = 0) {
        std::lock_guard<std::mutex> guard(lock);
        Count& count = phases[phase][what];
        ++count.calls;
        count.bytes += bytes;
    }

    void begin(const std::string& name) {
        std::lock_guard<std::mutex> guard(lock);
        phase = name;
    }

    // Writes lines of "phase TAB call TAB times TAB bytes" in the file that CUDA_STAND_IN_COUNTS names.
    ~Counts() {
        const char* path = std::getenv("CUDA_STAND_IN_COUNTS");
        std::FILE* file = path ? std::fopen(path, "w") : nullptr;
        if (!file) return;
        for (auto& [name, calls] : phases)
            for (auto& [what, count] : calls)
                std::fprintf(file, "%s\t%s\t%llu\t%llu\n", name.c_str(), what.c_str(),
                             static_cast<unsigned long long>(count.calls), static_cast<unsigned long long>(count.bytes));
        std::fclose(file);
    }

private:
    struct Count {
        uint64_t calls = 0, bytes = 0;
    };
    std::mutex lock;
    std::string phase = "0 before";
    std::map<std::string, std::map<std::string, Count>> phases;
};
