// Runs one method of an ExecuTorch program without Python and without torch, on aarch64 Linux, with one thread.
//
//     runner MODEL.pte METHOD RUNS OUT INPUT...
//
// Inputs are files of raw values, in the method's order; outputs are written likewise, to OUT/0, OUT/1, ... Then stdout
// has one line of JSON: {"load_ms": 1.2, "first_ms": 3.4, "runs_ms": [5.6, ...]}. The first run, which packs weights,
// is not among RUNS. Around each step stand the marks of edgevlm.onboard.counting. Exit code 1 comes with a line on
// stderr.
//
// It links the libraries that ExecuTorch's own wheel has for programs in C++.

#include <executorch/extension/threadpool/threadpool_guard.h>
#include <executorch/runtime/core/data_loader.h>
#include <executorch/runtime/core/evalue.h>
#include <executorch/runtime/core/hierarchical_allocator.h>
#include <executorch/runtime/core/memory_allocator.h>
#include <executorch/runtime/executor/memory_manager.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/runtime.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <list>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace executorch::runtime;
using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;

constexpr unsigned MARK = 0x51AE0000;
constexpr unsigned BEFORE = 0, LOADED = 1, FIRST_RUN = 2;

void mark(unsigned label) { getpriority(PRIO_PROCESS, MARK | label); }

[[noreturn]] void fail(const std::string& message) {
    std::fprintf(stderr, "error: %s\n", message.c_str());
    std::fflush(stderr);
    _exit(1);
}

void check(Error error, const std::string& what) {
    if (error != Error::Ok) fail(what + " failed with ExecuTorch's error 0x" + [error] {
        char digits[16];
        std::snprintf(digits, sizeof digits, "%x", static_cast<unsigned>(error));
        return std::string(digits);
    }());
}

template <typename T>
T& checked(Result<T>& result, const std::string& what) {
    check(result.error(), what);
    return *result;
}

double now_ms() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The program's file, mapped: pages are read when they are first needed.
class MappedFile final : public DataLoader {
 public:
    explicit MappedFile(const char* path) {
        int file = open(path, O_RDONLY);
        struct stat status;
        if (file < 0 || fstat(file, &status)) fail(std::string(path) + ": cannot be opened");
        size_ = static_cast<size_t>(status.st_size);
        void* mapped = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
        if (mapped == MAP_FAILED) fail(std::string(path) + ": cannot be mapped");
        begin_ = static_cast<const uint8_t*>(mapped);
        close(file);
    }

    Result<FreeableBuffer> load(size_t offset, size_t size, const SegmentInfo&) const override {
        if (offset > size_ || size > size_ - offset) return Error::InvalidProgram;
        return FreeableBuffer(begin_ + offset, size, nullptr);
    }

    Result<size_t> size() const override { return size_; }

 private:
    const uint8_t* begin_;
    size_t size_;
};

// Memory from the heap, of any size; `reset` gives back what a kernel took for the time of its run.
class Heap final : public MemoryAllocator {
 public:
    Heap() : MemoryAllocator(0, nullptr) {}

    void* allocate(size_t size, size_t alignment = kDefaultAlignment) override {
        void* taken = nullptr;
        if (posix_memalign(&taken, std::max(alignment, sizeof(void*)), size)) return nullptr;
        taken_.push_back(taken);
        return taken;
    }

    void reset() override {
        for (void* each : taken_) free(each);
        taken_.clear();
    }

 private:
    std::vector<void*> taken_;
};

// A tensor as ExecuTorch knows it, whose values are read from a file.
class Input {
 public:
    Input(const TensorInfo& info, const char* path)
        : sizes_(info.sizes().begin(), info.sizes().end()),
          order_(info.dim_order().begin(), info.dim_order().end()),
          strides_(sizes_.size()) {
        std::ifstream file(path, std::ios::binary);
        values_.assign(std::istreambuf_iterator<char>(file), {});
        if (!file || values_.size() != info.nbytes())
            fail(std::string(path) + ": expected " + std::to_string(info.nbytes()) + " bytes, got " +
                 std::to_string(values_.size()));
        int step = 1;
        for (size_t place = order_.size(); place-- > 0; step *= sizes_[order_[place]]) strides_[order_[place]] = step;
        implementation_ = std::make_unique<TensorImpl>(info.scalar_type(), sizes_.size(), sizes_.data(),
                                                       values_.data(), order_.data(), strides_.data());
    }

    EValue value() { return EValue(Tensor(implementation_.get())); }

 private:
    std::vector<executorch::aten::SizesType> sizes_;
    std::vector<executorch::aten::DimOrderType> order_;
    std::vector<executorch::aten::StridesType> strides_;
    std::vector<char> values_;
    std::unique_ptr<TensorImpl> implementation_;
};

// A loaded method with the memory that it runs in.
class Loaded {
 public:
    Loaded(const Program& program, const char* name) : meta_(program.method_meta(name)) {
        checked(meta_, std::string("finding the method ") + name);
        for (size_t index = 0; index < meta_->num_memory_planned_buffers(); index++) {
            Result<int64_t> size = meta_->memory_planned_buffer_size(index);
            buffers_.emplace_back(static_cast<size_t>(checked(size, "planning memory")));
            spans_.push_back({buffers_.back().data(), buffers_.back().size()});
        }
        planned_ = std::make_unique<HierarchicalAllocator>(Span<Span<uint8_t>>(spans_.data(), spans_.size()));
        manager_ = std::make_unique<MemoryManager>(&lasting_, planned_.get(), &passing_);
        Result<Method> method = program.load_method(name, manager_.get());
        method_ = std::make_unique<Method>(std::move(checked(method, std::string("loading the method ") + name)));
    }

    void read_inputs(char** paths, size_t count) {
        if (count != method_->inputs_size())
            fail("expected " + std::to_string(method_->inputs_size()) + " inputs, got " + std::to_string(count));
        for (size_t index = 0; index < count; index++) {
            Result<TensorInfo> info = meta_->input_tensor_meta(index);
            inputs_.emplace_back(checked(info, "reading an input's shape"), paths[index]);
        }
    }

    double run_ms() {
        const double began = now_ms();
        size_t index = 0;
        for (Input& each : inputs_)  // again for each run: they are copied to memory that the run uses otherwise too
            check(method_->set_input(each.value(), index++), "setting an input");
        check(method_->execute(), "running the method");
        return now_ms() - began;
    }

    void write_outputs(const std::string& folder) {
        for (size_t index = 0; index < method_->outputs_size(); index++) {
            const std::string path = folder + "/" + std::to_string(index);
            const Tensor& tensor = method_->get_output(index).toTensor();
            std::ofstream file(path, std::ios::binary);
            file.write(static_cast<const char*>(tensor.const_data_ptr()), static_cast<std::streamsize>(tensor.nbytes()));
            if (!file.flush()) fail(path + ": cannot be written");
        }
    }

 private:
    Result<MethodMeta> meta_;
    std::vector<std::vector<uint8_t>> buffers_;
    std::vector<Span<uint8_t>> spans_;
    Heap lasting_, passing_;
    std::unique_ptr<HierarchicalAllocator> planned_;
    std::unique_ptr<MemoryManager> manager_;
    std::unique_ptr<Method> method_;
    std::list<Input> inputs_;  // which stay where they are
};

}  // namespace

int main(int count, char** words) {
    if (count < 5) fail("expected MODEL.pte METHOD RUNS OUT INPUT...");
    const int runs = std::atoi(words[3]);
    runtime_init();
    const executorch::extension::threadpool::NoThreadPoolGuard one_thread;

    mark(BEFORE);
    const double began = now_ms();
    MappedFile file(words[1]);
    Result<Program> program = Program::load(&file);
    Loaded method(checked(program, std::string("reading ") + words[1]), words[2]);
    const double load_ms = now_ms() - began;
    mark(LOADED);

    method.read_inputs(words + 5, static_cast<size_t>(count - 5));
    const double first_ms = method.run_ms();
    mark(FIRST_RUN);
    std::vector<double> runs_ms;
    for (int run = 1; run <= runs; run++) {
        runs_ms.push_back(method.run_ms());
        mark(FIRST_RUN + static_cast<unsigned>(run));
    }

    method.write_outputs(words[4]);
    std::printf("{\"load_ms\": %.4f, \"first_ms\": %.4f, \"runs_ms\": [", load_ms, first_ms);
    for (size_t run = 0; run < runs_ms.size(); run++) std::printf("%s%.4f", run ? ", " : "", runs_ms[run]);
    std::printf("]}\n");
    return 0;
}
