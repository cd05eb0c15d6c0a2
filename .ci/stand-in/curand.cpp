// A stand-in for libcurand, because candle makes a generator with each device. It does not generate random numbers.
extern "C" {
int curandCreateGenerator(void** generator, int) { return *generator = reinterpret_cast<void*>(1), 0; }
int curandDestroyGenerator(void*) { return 0; }
int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return 0; }
int curandSetStream(void*, void*) { return 0; }
}
