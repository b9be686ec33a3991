// The instruction wgmma.mma_async.sync.aligned.m64nNk16.f32 for each N that tiles choose among: all its operands must
// be spelled out, which macros do. hopper.cuh says what it does.
#pragma once
#include <stdint.h>

#include <ptx.cuh>

// The name of an element's type in an instruction.
template <class T>
struct WgmmaType;

template <>
struct WgmmaType<Bf16> {
    static constexpr char name[] = "bf16";
};

template <>
struct WgmmaType<Fp16> {
    static constexpr char name[] = "f16";
};

// By N.
template <uint32_t columns>
struct WgmmaOf;

// A thread's sums as operands: eight of them, and as many as there are before.
#define WGMMA_EIGHT(i)                                                                                                 \
    "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3]), "+f"(sums[i + 4]), "+f"(sums[i + 5]),      \
        "+f"(sums[i + 6]), "+f"(sums[i + 7])
#define WGMMA_SUMS_8 WGMMA_EIGHT(0)
#define WGMMA_SUMS_16 WGMMA_SUMS_8, WGMMA_EIGHT(8)
#define WGMMA_SUMS_24 WGMMA_SUMS_16, WGMMA_EIGHT(16)
#define WGMMA_SUMS_32 WGMMA_SUMS_24, WGMMA_EIGHT(24)
#define WGMMA_SUMS_40 WGMMA_SUMS_32, WGMMA_EIGHT(32)
#define WGMMA_SUMS_48 WGMMA_SUMS_40, WGMMA_EIGHT(40)
#define WGMMA_SUMS_52 WGMMA_SUMS_48, "+f"(sums[48]), "+f"(sums[49]), "+f"(sums[50]), "+f"(sums[51])
#define WGMMA_SUMS_56 WGMMA_SUMS_48, WGMMA_EIGHT(48)
#define WGMMA_SUMS_64 WGMMA_SUMS_56, WGMMA_EIGHT(56)
#define WGMMA_SUMS_72 WGMMA_SUMS_64, WGMMA_EIGHT(64)
#define WGMMA_SUMS_80 WGMMA_SUMS_72, WGMMA_EIGHT(72)
#define WGMMA_SUMS_88 WGMMA_SUMS_80, WGMMA_EIGHT(80)
#define WGMMA_SUMS_96 WGMMA_SUMS_88, WGMMA_EIGHT(88)
#define WGMMA_SUMS_104 WGMMA_SUMS_96, WGMMA_EIGHT(96)
#define WGMMA_SUMS_112 WGMMA_SUMS_104, WGMMA_EIGHT(104)
#define WGMMA_SUMS_120 WGMMA_SUMS_112, WGMMA_EIGHT(112)
#define WGMMA_SUMS_128 WGMMA_SUMS_120, WGMMA_EIGHT(120)

// The same by the numbers that operands have in the text of an instruction.
#define WGMMA_NAMES_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define WGMMA_NAMES_16 WGMMA_NAMES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_NAMES_24 WGMMA_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define WGMMA_NAMES_32 WGMMA_NAMES_24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_NAMES_40 WGMMA_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define WGMMA_NAMES_48 WGMMA_NAMES_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define WGMMA_NAMES_52 WGMMA_NAMES_48 ", %48, %49, %50, %51"
#define WGMMA_NAMES_56 WGMMA_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define WGMMA_NAMES_64 WGMMA_NAMES_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_NAMES_72 WGMMA_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define WGMMA_NAMES_80 WGMMA_NAMES_72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define WGMMA_NAMES_88 WGMMA_NAMES_80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define WGMMA_NAMES_96 WGMMA_NAMES_88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define WGMMA_NAMES_104 WGMMA_NAMES_96 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define WGMMA_NAMES_112 WGMMA_NAMES_104 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define WGMMA_NAMES_120 WGMMA_NAMES_112 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define WGMMA_NAMES_128 WGMMA_NAMES_120 ", %120, %121, %122, %123, %124, %125, %126, %127"

// For `columns` of N and half as many sums; then the numbers of the operands behind these, one after another.
#define WGMMA_OF(columns, length, o0, o1, o2, o3, o4, o5, o6, o7)                                                      \
    template <>                                                                                                        \
    struct WgmmaOf<columns> {                                                                                          \
        template <class T, int b_major>                                                                                \
        static __device__ __forceinline__ void shared(float (&sums)[length], uint64_t a, uint64_t b,                   \
                                                      uint32_t accumulate) {                                           \
            asm volatile("{\n"                                                                                         \
                         ".reg .pred p;\n"                                                                             \
                         "setp.ne.b32 p, %" #o2 ", 0;\n"                                                               \
                         "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32.%" #o4 ".%" #o4 " "                     \
                         "{" WGMMA_NAMES_##length "}, %" #o0 ", %" #o1 ", p, 1, 1, 0, %" #o3 ";\n"                     \
                         "}"                                                                                           \
                         : WGMMA_SUMS_##length                                                                         \
                         : "l"(a), "l"(b), "r"(accumulate), "n"(b_major), "C"(WgmmaType<T>::name));                    \
        }                                                                                                              \
                                                                                                                       \
        template <class T, int b_major>                                                                                \
        static __device__ __forceinline__ void registers(float (&sums)[length], const uint32_t (&a)[4], uint64_t b,    \
                                                         uint32_t accumulate) {                                        \
            asm volatile("{\n"                                                                                         \
                         ".reg .pred p;\n"                                                                             \
                         "setp.ne.b32 p, %" #o5 ", 0;\n"                                                               \
                         "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32.%" #o7 ".%" #o7 " "                     \
                         "{" WGMMA_NAMES_##length "}, {%" #o0 ", %" #o1 ", %" #o2 ", %" #o3 "}, %" #o4                 \
                         ", p, 1, 1, %" #o6 ";\n"                                                                      \
                         "}"                                                                                           \
                         : WGMMA_SUMS_##length                                                                         \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(b_major),          \
                           "C"(WgmmaType<T>::name));                                                                   \
        }                                                                                                              \
    }

WGMMA_OF(16, 8, 8, 9, 10, 11, 12, 13, 14, 15);
WGMMA_OF(32, 16, 16, 17, 18, 19, 20, 21, 22, 23);
WGMMA_OF(48, 24, 24, 25, 26, 27, 28, 29, 30, 31);
WGMMA_OF(64, 32, 32, 33, 34, 35, 36, 37, 38, 39);
WGMMA_OF(80, 40, 40, 41, 42, 43, 44, 45, 46, 47);
WGMMA_OF(96, 48, 48, 49, 50, 51, 52, 53, 54, 55);
WGMMA_OF(104, 52, 52, 53, 54, 55, 56, 57, 58, 59);
WGMMA_OF(112, 56, 56, 57, 58, 59, 60, 61, 62, 63);
WGMMA_OF(128, 64, 64, 65, 66, 67, 68, 69, 70, 71);
WGMMA_OF(144, 72, 72, 73, 74, 75, 76, 77, 78, 79);
WGMMA_OF(160, 80, 80, 81, 82, 83, 84, 85, 86, 87);
WGMMA_OF(176, 88, 88, 89, 90, 91, 92, 93, 94, 95);
WGMMA_OF(192, 96, 96, 97, 98, 99, 100, 101, 102, 103);
WGMMA_OF(208, 104, 104, 105, 106, 107, 108, 109, 110, 111);
WGMMA_OF(224, 112, 112, 113, 114, 115, 116, 117, 118, 119);
WGMMA_OF(240, 120, 120, 121, 122, 123, 124, 125, 126, 127);
WGMMA_OF(256, 128, 128, 129, 130, 131, 132, 133, 134, 135);
