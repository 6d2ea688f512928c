//! From protocol messages to operations and mask plans
