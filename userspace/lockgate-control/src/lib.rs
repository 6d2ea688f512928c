//! Control plane: approvals, notifications, API
