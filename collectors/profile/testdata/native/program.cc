// Names with scopes, types and overloads, and inlining through templates of the library.
#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

namespace outer {
namespace {
__attribute__((noinline)) int hidden(int value) { return value * 7 + 1; }
} // namespace

struct Shape {
    virtual ~Shape() = default;
    virtual double area() const = 0;
};

template <typename T> struct Square final : Shape {
    T side;
    explicit Square(T side) : side(side) {}
    __attribute__((noinline)) double area() const override { return double(side) * double(side); }
};

__attribute__((noinline)) int overloaded(int value) { return hidden(value) + 1; }
__attribute__((noinline)) int overloaded(const std::string &value) { return hidden(int(value.size())); }
} // namespace outer

static __attribute__((noinline)) int file_local(std::vector<int> &values) {
    std::sort(values.begin(), values.end(), [](int left, int right) { return left % 10 < right % 10; });
    return values.front();
}

int main(int count, char **) {
    std::map<std::string, int> words;
    std::vector<int> values;
    for (int at = 0; at < 100; at++) {
        values.push_back(at * count % 17);
        words["w" + std::to_string(at % 13)] += outer::overloaded(at);
    }
    outer::Square<long> square(count);
    const outer::Shape &shape = square;
    int total = file_local(values) + outer::overloaded(words.begin()->first) + int(shape.area());
    std::printf("%d\n", total);
    return 0;
}
