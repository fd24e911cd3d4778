// cvkernels._autograd: the node that a kernel leaves in autograd's graph, without a line of Python in the backward
// pass, nor, where one operator is the whole of a Function's forward, in that.
//
// An autograd.Function of cvkernels/ops is the definition; this runs it where no transform is under way, and calls its
// operators with no interpreter in between. It knows no operation: what is kept, and for which operator, its
// Function says. LibTorch's stable ABI has no autograd, so this is bound to the torch that it was built with; with
// another one cvkernels does not load it, and the Function itself runs.
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/TracerMode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

namespace py = pybind11;
using at::Tensor;
using c10::IValue;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace cvkernels {  // its name shows in autograd's messages

// An operator of both namespaces, looked up once.
class Handle {
 public:
  explicit Handle(std::string name) : name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  const c10::OperatorHandle& of(bool triton) {
    auto& handle = handles_[triton];
    if (!handle) {
      const std::string space = triton ? "cvkernels_triton::" : "cvkernels::";
      handle = c10::Dispatcher::singleton().findSchemaOrThrow((space + name_).c_str(), "");
    }
    return *handle;
  }

 private:
  std::string name_;
  std::optional<c10::OperatorHandle> handles_[2];
};

// One Function. Made once and never freed: nodes of a graph point to it, and may outlive the module.
struct Operation {
  Handle backward;
  std::vector<int64_t> order;  // for each differentiable input, the first ones, which result of the backward it gets
  Handle forward;              // of the first `takes` inputs; none where takes is 0: then the Function's own runs
  size_t takes;
  py::function own_forward, kept, differentiably;
};

const Tensor& tensor_of(PyObject* object) { return THPVariable_Unpack(object); }

py::object object_of(const Tensor& t) { return py::reinterpret_steal<py::object>(THPVariable_Wrap(t)); }

// Asked last of what it is not: torch's answer for a number or None takes 800 instructions.
bool is_tensor(PyObject* object) {
  if (object == Py_None || PyFloat_CheckExact(object) || PyLong_Check(object) || PyList_Check(object)) return false;
  return THPVariable_CheckExact(object) || THPVariable_Check(object);
}

IValue constant(PyObject* object, const c10::Type& type) {
  IValue value;
  switch (type.kind()) {
    case c10::TypeKind::OptionalType:
      return object == Py_None ? value : constant(object, *type.expectRef<c10::OptionalType>().getElementType());
    case c10::TypeKind::FloatType:
      value = PyFloat_AsDouble(object);
      break;
    case c10::TypeKind::BoolType:
      value = PyObject_IsTrue(object) == 1;
      break;
    case c10::TypeKind::IntType:
      value = static_cast<int64_t>(PyLong_AsLongLong(object));
      break;
    case c10::TypeKind::ListType: {
      c10::List<int64_t> list;
      for (py::handle item : py::reinterpret_borrow<py::sequence>(object))
        list.push_back(PyLong_AsLongLong(item.ptr()));
      value = list;
      break;
    }
    default:
      throw py::type_error("cvkernels: an argument of type " + type.str() + " has no place in a node");
  }
  if (PyErr_Occurred()) throw py::error_already_set();
  return value;
}

py::object object_of(const IValue& v) {
  if (v.isNone()) return py::none();
  if (v.isDouble()) return py::float_(v.toDouble());
  if (v.isBool()) return py::bool_(v.toBool());
  if (v.isInt()) return py::int_(v.toInt());
  py::list list;
  for (const int64_t item : v.toIntList()) list.append(item);
  return list;
}

// What a node has beside the tensors that autograd saves for it. On the node it is lists of torch's own, which
// compiled autograd can read.
struct Kept {
  Operation* operation;
  bool triton;
  std::vector<int64_t> results;                           // for each input of the node, which result it gets
  std::vector<int64_t> places;                            // which arguments are the saved tensors
  std::vector<int64_t> strides;                           // of what came out
  std::vector<int64_t> saved;                             // of each saved tensor: how many strides, and those
  c10::impl::GenericList arguments{c10::AnyType::get()};  // after the gradient; None where a tensor stands

  void put_on(AutogradContext* ctx) const {
    c10::List<int64_t> numbers;
    numbers.reserve(5 + results.size() + places.size() + strides.size() + saved.size());
    for (const int64_t x : {reinterpret_cast<int64_t>(operation), int64_t{triton}, int64_t(results.size()),
                            int64_t(places.size()), int64_t(strides.size())})
      numbers.push_back(x);
    for (const auto* list : {&results, &places, &strides, &saved})
      for (const int64_t x : *list) numbers.push_back(x);
    ctx->saved_data["numbers"] = numbers;
    ctx->saved_data["arguments"] = arguments;
  }

  explicit Kept(Operation& made) : operation(&made) {}

  explicit Kept(AutogradContext* ctx) : arguments(ctx->saved_data["arguments"].toList()) {
    const auto numbers = ctx->saved_data["numbers"].toIntVector();
    operation = reinterpret_cast<Operation*>(numbers[0]);
    triton = numbers[1];
    const auto first = numbers.begin() + 5, second = first + numbers[2], third = second + numbers[3],
               fourth = third + numbers[4];
    results.assign(first, second), places.assign(second, third), strides.assign(third, fourth);
    saved.assign(fourth, numbers.end());
  }
};

struct Operator : torch::autograd::Function<Operator> {
  static Tensor forward(AutogradContext* ctx, at::TensorList, const Tensor* out, variable_list* saved,
                        const Kept* kept) {
    ctx->save_for_backward(std::move(*saved));
    kept->put_on(ctx);
    return *out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const Kept kept(ctx);
    torch::jit::Stack stack;
    stack.reserve(kept.arguments.size() + 1);
    stack.emplace_back(in_strides(grads[0], kept.strides));
    for (const IValue& argument : kept.arguments) stack.push_back(argument);
    const auto saved = ctx->get_saved_variables();
    const int64_t* strides = kept.saved.data();  // a hook may have laid out anew what it gives back
    for (size_t i = 0; i < saved.size(); ++i, strides += *strides + 1) {
      stack[kept.places[i] + 1] = in_strides(saved[i], {strides + 1, static_cast<size_t>(*strides)});
    }
    if (at::GradMode::is_enabled()) {
      differentiably(kept, stack);
    } else {
      at::AutoDispatchBelowADInplaceOrView below;
      kept.operation->backward.of(kept.triton).callBoxed(stack);
    }
    variable_list out(kept.results.size() + 3);  // the last are of forward's other arguments
    for (size_t i = 0; i < kept.results.size(); ++i) {
      const IValue& result = stack.at(kept.results[i]);
      if (ctx->needs_input_grad(i) && !result.isNone()) out[i] = result.toTensor();
    }
    return out;
  }

  // Kernels walk the gradient, and what was saved, as they walk what came out.
  static Tensor in_strides(const Tensor& grad, at::IntArrayRef strides) {
    if (grad.strides() == strides) return grad;
    // not by a write into what has them: a mapped gradient allows none
    std::vector<int64_t> order(strides.size()), back(strides.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t x, int64_t y) { return strides[x] > strides[y]; });
    for (size_t i = 0; i < order.size(); ++i) back[order[i]] = static_cast<int64_t>(i);
    return grad.permute(order).contiguous().permute(back);
  }

  // A double backward is the Function's own to say, or to refuse, in Python.
  static void differentiably(const Kept& kept, torch::jit::Stack& stack) {
    py::gil_scoped_acquire python;
    py::list arguments;
    for (const IValue& v : stack) arguments.append(v.isTensor() ? object_of(v.toTensor()) : object_of(v));
    const char* backend = kept.triton ? "triton" : "cpu";
    py::tuple strides(kept.strides.size());
    for (size_t i = 0; i < kept.strides.size(); ++i) strides[i] = py::int_(kept.strides[i]);
    const py::object grads = kept.operation->differentiably(backend, strides, *arguments);
    stack.clear();
    for (py::handle grad : py::reinterpret_borrow<py::sequence>(grads)) {
      stack.push_back(grad.is_none() ? IValue() : IValue(tensor_of(grad.ptr())));
    }
  }
};

bool on_triton(const py::args& inputs) {
  return PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(inputs.ptr(), inputs.size() - 1), "triton") == 0;
}

py::object called(const py::function& f, PyObject* arguments) {
  auto result = py::reinterpret_steal<py::object>(PyObject_CallObject(f.ptr(), arguments));
  if (!result) throw py::error_already_set();
  return result;
}

bool takes_tensor(const c10::Type& type) {
  if (type.kind() != c10::TypeKind::OptionalType) return type.kind() == c10::TypeKind::TensorType;
  return type.expectRef<c10::OptionalType>().getElementType()->kind() == c10::TypeKind::TensorType;
}

// Whether a subclass of Tensor or a mode has a word to say about what Python calls (__torch_function__).
bool overridden(const py::args& inputs, size_t takes) {
  if (at::impl::torch_function_mode_enabled()) return true;
  for (size_t i = 0; i < std::min(takes, inputs.size()); ++i) {
    PyObject* object = PyTuple_GET_ITEM(inputs.ptr(), i);
    if (is_tensor(object) && !THPVariable_CheckExact(object)) return true;
  }
  return false;
}

// The Function's forward, without a graph. The mode tells kernels whether there will be a backward pass (results.h):
// below autograd it records nothing.
py::object run(Operation& operation, const py::args& inputs, bool recorded) {
  at::AutoGradMode off(false);
  // torch.jit.trace records what Python calls, and would take what comes from here for a constant
  if (operation.takes == 0 || at::tracer::impl::is_dispatch_enabled() || overridden(inputs, operation.takes)) {
    return called(operation.own_forward, inputs.ptr());
  }
  const bool triton = on_triton(inputs);
  const auto& handle = operation.forward.of(triton);
  const auto& expected = handle.schema().arguments();
  torch::jit::Stack stack;
  stack.reserve(expected.size());
  TORCH_CHECK(operation.takes == expected.size() && operation.takes < inputs.size(),
              "cvkernels: ", operation.forward.name(), " takes ", expected.size(), " arguments, not ", operation.takes);
  for (size_t i = 0; i < operation.takes; ++i) {
    PyObject* object = PyTuple_GET_ITEM(inputs.ptr(), i);
    const c10::Type& type = *expected[i].type();
    stack.push_back(takes_tensor(type) && is_tensor(object) ? IValue(tensor_of(object)) : constant(object, type));
  }
  {
    py::gil_scoped_release others;  // other threads of Python go on meanwhile
    at::AutoDispatchBelowADInplaceOrView below;
    at::AutoGradMode mode(recorded && !triton);
    handle.callBoxed(stack);
  }
  if (stack.size() == 1) return object_of(stack[0].toTensor());
  py::tuple results(stack.size());
  for (size_t i = 0; i < stack.size(); ++i) results[i] = object_of(stack[i].toTensor());
  return std::move(results);
}

// The Function's forward; then its node, where a gradient is recorded. What else came out is for the backward alone,
// and None then.
py::object apply(Operation& operation, const py::args& inputs) {
  const std::string& name = operation.backward.name();
  const size_t count = operation.order.size();
  TORCH_CHECK(inputs.size() > count, "cvkernels: ", name, " was given ", inputs.size(), " inputs");
  Kept kept(operation);
  variable_list tensors, saved;
  py::tuple wanted(count);
  bool any = false;
  for (size_t i = 0; i < count; ++i) {
    PyObject* object = PyTuple_GET_ITEM(inputs.ptr(), i);
    bool requires_grad = false;
    if (object != Py_None) {
      tensors.push_back(tensor_of(object));
      kept.results.push_back(operation.order[i]);
      requires_grad = tensors.back().requires_grad();
    }
    any |= requires_grad;
    wanted[i] = py::bool_(requires_grad);
  }
  const bool recorded = any && at::GradMode::is_enabled();
  const py::object result = run(operation, inputs, recorded);
  if (!recorded) return result;
  const bool several = PyTuple_Check(result.ptr());
  const Tensor out = tensor_of(several ? PyTuple_GET_ITEM(result.ptr(), 0) : result.ptr());
  const py::object arguments = called(operation.kept, py::make_tuple(inputs, result, wanted).ptr());

  kept.triton = on_triton(inputs);
  kept.strides = out.strides().vec();
  const auto& expected = operation.backward.of(kept.triton).schema().arguments();
  const size_t given = PyTuple_Size(arguments.ptr());
  TORCH_CHECK(given + 1 == expected.size(), "cvkernels: ", name, " takes ", expected.size() - 1,
              " arguments after the gradient, got ", given);
  for (size_t i = 0; i < given; ++i) {
    PyObject* object = PyTuple_GET_ITEM(arguments.ptr(), i);
    const bool tensor = is_tensor(object);
    if (tensor) {
      kept.places.push_back(static_cast<int64_t>(i));
      saved.push_back(tensor_of(object));
      const auto strides = saved.back().strides();
      kept.saved.push_back(static_cast<int64_t>(strides.size()));
      kept.saved.insert(kept.saved.end(), strides.begin(), strides.end());
    }
    kept.arguments.push_back(tensor || object == Py_None ? IValue() : constant(object, *expected[i + 1].type()));
  }
  const py::object y = object_of(Operator::apply(at::TensorList(tensors), &out, &saved, &kept));
  return several ? py::object(py::make_tuple(y, py::none())) : y;
}

}  // namespace cvkernels

PYBIND11_MODULE(_autograd, m) {
  using cvkernels::Handle;
  using cvkernels::Operation;
  m.doc() = "Nodes of autograd's graph for cvkernels' operators, for the torch of this name alone.";
  m.attr("torch") = CVK_TORCH;
  py::class_<Operation, std::unique_ptr<Operation, py::nodelete>>(m, "Operation")
      .def(py::init([](std::string backward, std::vector<int64_t> order, std::string forward, size_t takes,
                       py::function own_forward, py::function kept, py::function differentiably) {
        return std::unique_ptr<Operation, py::nodelete>(
            new Operation{Handle(std::move(backward)), std::move(order), Handle(std::move(forward)), takes,
                          std::move(own_forward), std::move(kept), std::move(differentiably)});
      }))
      .def("apply", &cvkernels::apply);
}
