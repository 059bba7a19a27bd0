"""Stand-ins of a few lines for the packages that HumanEval-X's programs import.

So nothing has to be fetched. They have the functions that the 164 problems use, and no more.
"""

# Two problems in C++ take values of any type.
BOOST_ANY = """#pragma once
#include <memory>
#include <type_traits>
#include <typeinfo>

namespace boost {
class bad_any_cast : public std::bad_cast {};

class any {
    struct holder {
        virtual ~holder() {}
        virtual const std::type_info& type() const = 0;
    };

  public:
    template <class T> struct held : holder {
        T value;
        explicit held(const T& v) : value(v) {}
        const std::type_info& type() const override { return typeid(T); }
    };
    any() {}
    template <class T, class D = typename std::decay<T>::type,
              class = typename std::enable_if<!std::is_same<D, any>::value>::type>
    any(const T& value) : kept(std::make_shared<held<D>>(value)) {}
    bool empty() const { return !kept; }
    const std::type_info& type() const { return kept ? kept->type() : typeid(void); }
    std::shared_ptr<holder> kept;
};

template <class T> T any_cast(const any& from) {
    typedef typename std::decay<T>::type D;
    if (from.type() != typeid(D)) throw bad_any_cast();
    return static_cast<any::held<D>&>(*from.kept).value;
}
}  // namespace boost
"""
# One problem in JavaScript takes an MD5 sum, which Node has itself.
JS_MD5 = "module.exports = text => require('crypto').createHash('md5').update(text).digest('hex')\n"
GO_MODULE = """module main

go 1.18

require github.com/stretchr/testify v0.0.0

replace github.com/stretchr/testify => ./testify
"""
# Go's tests ask testify for one comparison.
GO_ASSERT = """package assert

import (
	"bytes"
	"reflect"
	"testing"
)

type Assertions struct{ t *testing.T }

func New(t *testing.T) *Assertions { return &Assertions{t} }

func (a *Assertions) Equal(expected, actual interface{}, _ ...interface{}) bool {
	a.t.Helper()
	want, isBytes := expected.([]byte)
	got, both := actual.([]byte)
	equal := reflect.DeepEqual(expected, actual)
	if isBytes && both && want != nil && got != nil {
		equal = bytes.Equal(want, got)
	}
	if !equal {
		a.t.Errorf("not equal: expected %#v, actual %#v", expected, actual)
	}
	return equal
}
"""
