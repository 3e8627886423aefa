/* Wine 8 has no bcryptprimitives.dll, from which Rust's standard library takes its random numbers:
   without it a program ends with status 53 and prints nothing. This is the one call that is used. */

/* RtlGenRandom: advapi32 exports it under this name only. */
unsigned char SystemFunction036(void *buffer, unsigned long length);

__declspec(dllexport) int ProcessPrng(unsigned char *buffer, unsigned long long length) {
    while (length > 0) {
        unsigned long part = length > 0x10000000 ? 0x10000000 : (unsigned long)length;
        if (!SystemFunction036(buffer, part))
            return 0;
        buffer += part;
        length -= part;
    }
    return 1;
}
