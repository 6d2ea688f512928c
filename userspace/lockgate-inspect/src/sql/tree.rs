//! The grammar's tree, uniformly: which fields of which node lead further down. It knows nothing of what nodes mean.
//!
//! The lists are complete for pg_query 18.1: the `match` at the end has no wildcard, so a new node kind does not compile
//! until it is listed. They were made from the crate's `protobuf.rs` (every field of a message type). A walk that meets a
//! node it has no words for goes on through here, so that no column, function or relation hides in it.

use pg_query::{NodeEnum, protobuf};

/// A child of a node. Relations, types and subqueries are offered whole, wherever they hang; all other typed children are
/// passed through to their own children.
#[derive(Clone, Copy)]
pub(super) enum Child<'a> {
    Node(&'a NodeEnum),
    Relation(&'a protobuf::RangeVar),
    Type(&'a protobuf::TypeName),
    Select(&'a protobuf::SelectStmt),
}

/// Something that hangs in the tree.
pub(super) trait Offer {
    /// Offers itself, or what hangs below it.
    fn offer<'a>(&'a self, visit: &mut dyn FnMut(Child<'a>));
}

impl Offer for protobuf::Node {
    fn offer<'a>(&'a self, visit: &mut dyn FnMut(Child<'a>)) {
        if let Some(node) = &self.node {
            visit(Child::Node(node));
        }
    }
}

impl<T: Offer> Offer for Vec<T> {
    fn offer<'a>(&'a self, visit: &mut dyn FnMut(Child<'a>)) {
        for item in self {
            item.offer(visit);
        }
    }
}

impl<T: Offer> Offer for Option<T> {
    fn offer<'a>(&'a self, visit: &mut dyn FnMut(Child<'a>)) {
        if let Some(item) = self {
            item.offer(visit);
        }
    }
}

impl<T: Offer> Offer for Box<T> {
    fn offer<'a>(&'a self, visit: &mut dyn FnMut(Child<'a>)) {
        (**self).offer(visit);
    }
}

impl Offer for protobuf::RangeVar {
    fn offer<'a>(&'a self, visit: &mut dyn FnMut(Child<'a>)) {
        visit(Child::Relation(self));
    }
}

impl Offer for protobuf::TypeName {
    fn offer<'a>(&'a self, visit: &mut dyn FnMut(Child<'a>)) {
        visit(Child::Type(self));
    }
}

impl Offer for protobuf::SelectStmt {
    fn offer<'a>(&'a self, visit: &mut dyn FnMut(Child<'a>)) {
        visit(Child::Select(self));
    }
}

/// Offers the children of a subquery.
pub(super) fn select_children<'a>(select: &'a protobuf::SelectStmt, visit: &mut dyn FnMut(Child<'a>)) {
    select.distinct_clause.offer(visit);
    select.into_clause.offer(visit);
    select.target_list.offer(visit);
    select.from_clause.offer(visit);
    select.where_clause.offer(visit);
    select.group_clause.offer(visit);
    select.having_clause.offer(visit);
    select.window_clause.offer(visit);
    select.values_lists.offer(visit);
    select.sort_clause.offer(visit);
    select.limit_offset.offer(visit);
    select.limit_count.offer(visit);
    select.locking_clause.offer(visit);
    select.with_clause.offer(visit);
    select.larg.offer(visit);
    select.rarg.offer(visit);
}

/// Offers the children of a type name.
pub(super) fn type_children<'a>(name: &'a protobuf::TypeName, visit: &mut dyn FnMut(Child<'a>)) {
    name.names.offer(visit);
    name.typmods.offer(visit);
    name.array_bounds.offer(visit);
}

/// Walks everything below a node, subqueries included, for as long as `visit` answers true.
pub(super) fn descend(node: &NodeEnum, visit: &mut dyn FnMut(&NodeEnum) -> bool) {
    fn walk_child(child: Child<'_>, visit: &mut dyn FnMut(&NodeEnum) -> bool) {
        match child {
            Child::Node(node) => {
                if visit(node) {
                    descend(node, visit);
                }
            }
            Child::Select(select) => select_children(select, &mut |below| walk_child(below, visit)),
            Child::Type(name) => type_children(name, &mut |below| walk_child(below, visit)),
            Child::Relation(_) => {}
        }
    }
    match node {
        NodeEnum::SelectStmt(select) => select_children(select, &mut |below| walk_child(below, visit)),
        NodeEnum::TypeName(name) => type_children(name, &mut |below| walk_child(below, visit)),
        node => children(node, &mut |below| walk_child(below, visit)),
    }
}

/// The message type of a variant of the same name, or of another.
macro_rules! message {
    ($variant:ident) => {
        protobuf::$variant
    };
    ($variant:ident $message:ident) => {
        protobuf::$message
    };
}

macro_rules! tree {
    (
        branches { $($variant:ident $(as $message:ident)? { $($field:ident),* })* }
        leaves { $($leaf:ident $(as $leaf_message:ident)?),* $(,)? }
    ) => {
        $(impl Offer for message!($variant $($message)?) {
            fn offer<'a>(&'a self, visit: &mut dyn FnMut(Child<'a>)) {
                $(self.$field.offer(visit);)*
            }
        })*
        $(impl Offer for message!($leaf $($leaf_message)?) {
            fn offer<'a>(&'a self, _visit: &mut dyn FnMut(Child<'a>)) {}
        })*

        /// Offers the children of a node.
        pub(super) fn children<'a>(node: &'a NodeEnum, visit: &mut dyn FnMut(Child<'a>)) {
            match node {
                NodeEnum::RawStmt(raw) => raw.stmt.offer(visit),
                NodeEnum::RangeVar(relation) => visit(Child::Relation(relation)),
                NodeEnum::TypeName(name) => visit(Child::Type(name)),
                NodeEnum::SelectStmt(select) => visit(Child::Select(select)),
                $(NodeEnum::$variant(node) => node.offer(visit),)*
                $(NodeEnum::$leaf(_) => {})*
            }
        }
    };
}

tree! {
    branches {
        List { items }
        OidList { items }
        IntList { items }
        Alias { colnames }
        TableFunc { ns_uris, ns_names, docexpr, rowexpr, colnames, coltypes, coltypmods, colcollations, colexprs,
            coldefexprs, colvalexprs, passingvalexprs, plan }
        IntoClause { rel, col_names, options, view_query }
        Var { xpr }
        Param { xpr }
        Aggref { xpr, aggargtypes, aggdirectargs, args, aggorder, aggdistinct, aggfilter }
        GroupingFunc { xpr, args, refs }
        WindowFunc { xpr, args, aggfilter, run_condition }
        WindowFuncRunCondition { xpr, arg }
        MergeSupportFunc { xpr }
        SubscriptingRef { xpr, refupperindexpr, reflowerindexpr, refexpr, refassgnexpr }
        FuncExpr { xpr, args }
        NamedArgExpr { xpr, arg }
        OpExpr { xpr, args }
        DistinctExpr { xpr, args }
        NullIfExpr { xpr, args }
        ScalarArrayOpExpr { xpr, args }
        BoolExpr { xpr, args }
        SubLink { xpr, testexpr, oper_name, subselect }
        SubPlan { xpr, testexpr, param_ids, set_param, par_param, args }
        AlternativeSubPlan { xpr, subplans }
        FieldSelect { xpr, arg }
        FieldStore { xpr, arg, newvals, fieldnums }
        RelabelType { xpr, arg }
        CoerceViaIo { xpr, arg }
        ArrayCoerceExpr { xpr, arg, elemexpr }
        ConvertRowtypeExpr { xpr, arg }
        CollateExpr { xpr, arg }
        CaseExpr { xpr, arg, args, defresult }
        CaseWhen { xpr, expr, result }
        CaseTestExpr { xpr }
        ArrayExpr { xpr, elements }
        RowExpr { xpr, args, colnames }
        RowCompareExpr { xpr, opnos, opfamilies, inputcollids, largs, rargs }
        CoalesceExpr { xpr, args }
        MinMaxExpr { xpr, args }
        SqlvalueFunction as SqlValueFunction { xpr }
        XmlExpr { xpr, named_args, arg_names, args }
        JsonReturning { format }
        JsonValueExpr { raw_expr, formatted_expr, format }
        JsonConstructorExpr { xpr, args, func, coercion, returning }
        JsonIsPredicate { expr, format }
        JsonBehavior { expr }
        JsonExpr { xpr, formatted_expr, format, path_spec, returning, passing_names, passing_values, on_empty,
            on_error }
        JsonTablePathScan { plan, path, child }
        JsonTableSiblingJoin { plan, lplan, rplan }
        NullTest { xpr, arg }
        BooleanTest { xpr, arg }
        MergeAction { qual, target_list, update_colnos }
        CoerceToDomain { xpr, arg }
        CoerceToDomainValue { xpr }
        SetToDefault { xpr }
        CurrentOfExpr { xpr }
        NextValueExpr { xpr }
        InferenceElem { xpr, expr }
        ReturningExpr { xpr, retexpr }
        TargetEntry { xpr, expr }
        JoinExpr { larg, rarg, using_clause, join_using_alias, quals, alias }
        FromExpr { fromlist, quals }
        OnConflictExpr { arbiter_elems, arbiter_where, on_conflict_set, on_conflict_where, excl_rel_tlist }
        Query { utility_stmt, cte_list, rtable, rteperminfos, jointree, merge_action_list, merge_join_condition,
            target_list, on_conflict, returning_list, group_clause, grouping_sets, having_qual, window_clause,
            distinct_clause, sort_clause, limit_offset, limit_count, row_marks, set_operations, constraint_deps,
            with_check_options }
        ColumnRef { fields }
        AExpr { name, lexpr, rexpr }
        TypeCast { arg, type_name }
        CollateClause { arg, collname }
        FuncCall { funcname, args, agg_order, agg_filter, over }
        AIndices { lidx, uidx }
        AIndirection { arg, indirection }
        AArrayExpr { elements }
        ResTarget { indirection, val }
        MultiAssignRef { source }
        SortBy { node, use_op }
        WindowDef { partition_clause, order_clause, start_offset, end_offset }
        RangeSubselect { subquery, alias }
        RangeFunction { functions, alias, coldeflist }
        RangeTableFunc { docexpr, rowexpr, namespaces, columns, alias }
        RangeTableFuncCol { type_name, colexpr, coldefexpr }
        RangeTableSample { relation, method, args, repeatable }
        ColumnDef { type_name, raw_default, cooked_default, identity_sequence, coll_clause, constraints, fdwoptions
            }
        TableLikeClause { relation }
        IndexElem { expr, collation, opclass, opclassopts }
        DefElem { arg }
        LockingClause { locked_rels }
        XmlSerialize { expr, type_name }
        PartitionElem { expr, collation, opclass }
        PartitionSpec { part_params }
        PartitionBoundSpec { listdatums, lowerdatums, upperdatums }
        PartitionRangeDatum { value }
        PartitionCmd { name, bound }
        RangeTblEntry { alias, eref, tablesample, subquery, joinaliasvars, joinleftcols, joinrightcols,
            join_using_alias, functions, tablefunc, values_lists, coltypes, coltypmods, colcollations, groupexprs,
            security_quals }
        RangeTblFunction { funcexpr, funccolnames, funccoltypes, funccoltypmods, funccolcollations }
        TableSampleClause { args, repeatable }
        WithCheckOption { qual }
        GroupingSet { content }
        WindowClause { partition_clause, order_clause, start_offset, end_offset }
        WithClause { ctes }
        InferClause { index_elems, where_clause }
        OnConflictClause { infer, target_list, where_clause }
        CtesearchClause as CteSearchClause { search_col_list }
        CtecycleClause as CteCycleClause { cycle_col_list, cycle_mark_value, cycle_mark_default }
        CommonTableExpr { aliascolnames, ctequery, search_clause, cycle_clause, ctecolnames, ctecoltypes,
            ctecoltypmods, ctecolcollations }
        MergeWhenClause { condition, target_list, values }
        ReturningClause { options, exprs }
        JsonOutput { type_name, returning }
        JsonArgument { val }
        JsonFuncExpr { context_item, pathspec, passing, output, on_empty, on_error }
        JsonTablePathSpec { string }
        JsonTable { context_item, pathspec, passing, columns, on_error, alias }
        JsonTableColumn { type_name, pathspec, format, columns, on_empty, on_error }
        JsonKeyValue { key, value }
        JsonParseExpr { expr, output }
        JsonScalarExpr { expr, output }
        JsonSerializeExpr { expr, output }
        JsonObjectConstructor { exprs, output }
        JsonArrayConstructor { exprs, output }
        JsonArrayQueryConstructor { query, output, format }
        JsonAggConstructor { output, agg_filter, agg_order, over }
        JsonObjectAgg { constructor, arg }
        JsonArrayAgg { constructor, arg }
        InsertStmt { relation, cols, select_stmt, on_conflict_clause, returning_clause, with_clause }
        DeleteStmt { relation, using_clause, where_clause, returning_clause, with_clause }
        UpdateStmt { relation, target_list, where_clause, from_clause, returning_clause, with_clause }
        MergeStmt { relation, source_relation, join_condition, merge_when_clauses, returning_clause, with_clause }
        SetOperationStmt { larg, rarg, col_types, col_typmods, col_collations, group_clauses }
        ReturnStmt { returnval }
        PlassignStmt as PlAssignStmt { indirection, val }
        CreateSchemaStmt { authrole, schema_elts }
        AlterTableStmt { relation, cmds }
        AlterTableCmd { newowner, def }
        AlterCollationStmt { collname }
        AlterDomainStmt { type_name, def }
        GrantStmt { objects, privileges, grantees, grantor }
        ObjectWithArgs { objname, objargs, objfuncargs }
        AccessPriv { cols }
        GrantRoleStmt { granted_roles, grantee_roles, opt, grantor }
        AlterDefaultPrivilegesStmt { options, action }
        CopyStmt { relation, query, attlist, options, where_clause }
        VariableSetStmt { args }
        CreateStmt { relation, table_elts, inh_relations, partbound, partspec, of_typename, constraints,
            nnconstraints, options }
        Constraint { raw_expr, keys, including, exclusions, options, where_clause, pktable, fk_attrs, pk_attrs,
            fk_del_set_cols, old_conpfeqop }
        CreateTableSpaceStmt { owner, options }
        AlterTableSpaceOptionsStmt { options }
        AlterTableMoveAllStmt { roles }
        CreateExtensionStmt { options }
        AlterExtensionStmt { options }
        AlterExtensionContentsStmt { object }
        CreateFdwStmt { func_options, options }
        AlterFdwStmt { func_options, options }
        CreateForeignServerStmt { options }
        AlterForeignServerStmt { options }
        CreateForeignTableStmt { base_stmt, options }
        CreateUserMappingStmt { user, options }
        AlterUserMappingStmt { user, options }
        DropUserMappingStmt { user }
        ImportForeignSchemaStmt { table_list, options }
        CreatePolicyStmt { table, roles, qual, with_check }
        AlterPolicyStmt { table, roles, qual, with_check }
        CreateAmStmt { handler_name }
        CreateTrigStmt { relation, funcname, args, columns, when_clause, transition_rels, constrrel }
        CreateEventTrigStmt { whenclause, funcname }
        CreatePlangStmt as CreatePLangStmt { plhandler, plinline, plvalidator }
        CreateRoleStmt { options }
        AlterRoleStmt { role, options }
        AlterRoleSetStmt { role, setstmt }
        DropRoleStmt { roles }
        CreateSeqStmt { sequence, options }
        AlterSeqStmt { sequence, options }
        DefineStmt { defnames, args, definition }
        CreateDomainStmt { domainname, type_name, coll_clause, constraints }
        CreateOpClassStmt { opclassname, opfamilyname, datatype, items }
        CreateOpClassItem { name, order_family, class_args, storedtype }
        CreateOpFamilyStmt { opfamilyname }
        AlterOpFamilyStmt { opfamilyname, items }
        DropStmt { objects }
        TruncateStmt { relations }
        CommentStmt { object }
        SecLabelStmt { object }
        DeclareCursorStmt { query }
        IndexStmt { relation, index_params, index_including_params, options, where_clause, exclude_op_names }
        CreateStatsStmt { defnames, stat_types, exprs, relations }
        StatsElem { expr }
        AlterStatsStmt { defnames, stxstattarget }
        CreateFunctionStmt { funcname, parameters, return_type, options, sql_body }
        FunctionParameter { arg_type, defexpr }
        AlterFunctionStmt { func, actions }
        DoStmt { args }
        CallStmt { funccall, funcexpr, outargs }
        RenameStmt { relation, object }
        AlterObjectDependsStmt { relation, object, extname }
        AlterObjectSchemaStmt { relation, object }
        AlterOwnerStmt { relation, object, newowner }
        AlterOperatorStmt { opername, options }
        AlterTypeStmt { type_name, options }
        RuleStmt { relation, where_clause, actions }
        TransactionStmt { options }
        CompositeTypeStmt { typevar, coldeflist }
        CreateEnumStmt { type_name, vals }
        CreateRangeStmt { type_name, params }
        AlterEnumStmt { type_name }
        ViewStmt { view, aliases, query, options }
        CreatedbStmt { options }
        AlterDatabaseStmt { options }
        AlterDatabaseSetStmt { setstmt }
        DropdbStmt { options }
        AlterSystemStmt { setstmt }
        ClusterStmt { relation, params }
        VacuumStmt { options, rels }
        VacuumRelation { relation, va_cols }
        ExplainStmt { query, options }
        CreateTableAsStmt { query, into }
        RefreshMatViewStmt { relation }
        LockStmt { relations }
        ConstraintsSetStmt { constraints }
        ReindexStmt { relation, params }
        CreateConversionStmt { conversion_name, func_name }
        CreateCastStmt { sourcetype, targettype, func }
        CreateTransformStmt { type_name, fromsql, tosql }
        PrepareStmt { argtypes, query }
        ExecuteStmt { params }
        DropOwnedStmt { roles }
        ReassignOwnedStmt { roles, newrole }
        AlterTsdictionaryStmt as AlterTsDictionaryStmt { dictname, options }
        AlterTsconfigurationStmt as AlterTsConfigurationStmt { cfgname, tokentype, dicts }
        PublicationTable { relation, where_clause, columns }
        PublicationObjSpec { pubtable }
        CreatePublicationStmt { options, pubobjects }
        AlterPublicationStmt { options, pubobjects }
        CreateSubscriptionStmt { publication, options }
        AlterSubscriptionStmt { publication, options }
    }
    leaves {
        Integer, Float, Boolean, String, BitString, AConst, JsonFormat, JsonTablePath, RangeTblRef, ParamRef,
        RoleSpec, AStar, RtepermissionInfo as RtePermissionInfo, SortGroupClause, RowMarkClause, ReturningOption,
        TriggerTransition, AtalterConstraint as AtAlterConstraint, ReplicaIdentityStmt, VariableShowStmt,
        DropTableSpaceStmt, AlterEventTrigStmt, ClosePortalStmt, FetchStmt, InlineCodeBlock, CallContext,
        NotifyStmt, ListenStmt, UnlistenStmt, LoadStmt, AlterDatabaseRefreshCollStmt, CheckPointStmt, DiscardStmt,
        DeallocateStmt, DropSubscriptionStmt,
    }
}
