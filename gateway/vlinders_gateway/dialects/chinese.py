"""What is wrong with a field, in Chinese: the texts of the contracts, and more like them."""

from collections.abc import Mapping
from typing import Any

from vlinders_kit.errors import Violation

WORDS: Mapping[str, str] = {
    "email string.email": "邮箱格式不正确",
    "email string.email_empty": "邮箱格式不正确",
    "password string.min_len": "密码长度至少{minLength}位",
    "new_password string.min_len": "密码长度至少{minLength}位",
    "username string.min_len": "用户名长度必须在{minLength}-{maxLength}个字符之间",
    "username string.max_len": "用户名长度必须在{minLength}-{maxLength}个字符之间",
    "username string.pattern": "用户名只能包含字母、数字、下划线、点和连字符",
    "confirm_password.same": "两次输入的密码不一致",
    "string.min_len": "长度至少{minLength}个字符",
    "string.max_len": "长度不能超过{maxLength}个字符",
    "string.pattern": "格式不正确",
    "string.in": "取值无效",
    "string.null": "不能包含空字符",
    "int32.gte_lte": "必须在{minimum}到{maximum}之间",
    "int64.gte": "取值无效",
    "enum.not_in": "不能为空",
    "enum.defined_only": "取值无效",
    "account_number.named": "取值无效",
    "repeated.min_items": "不能为空",
    "repeated.max_items": "数量过多",
    "repeated.unique": "不能重复",
    "amount": "金额格式不正确",
    "BALANCE_HELD": "余额已被进行中的请求占用",
    "timestamp": "时间格式不正确",
    "type": "类型不正确",
    "in": "取值无效",
    "null": "不能为空字符串",
    "filter": "不支持按该字段筛选",
    "sort": "不支持按该字段排序",
    "page.number": "必须是不小于1的整数",
    "page.size": "必须是1到100之间的整数",
    "PASSWORD_TOO_SHORT": "密码长度太短",
    "EMAIL_TAKEN": "邮箱已被注册",
    "USERNAME_TAKEN": "用户名已被使用",
    "EXPIRY_IN_THE_PAST": "过期时间必须晚于当前时间",
    "NOTHING_TO_CHANGE": "没有需要修改的内容",
    "OWN_ACCOUNT": "不能修改自己的账户",
    "OAUTH_PROVIDER_UNKNOWN": "不支持该登录方式",
    "OAUTH_STATE_INVALID": "登录状态无效或已过期",
}
"""Rule, with the name of its field before it or alone → what is said of a field that breaks it."""

EMPTY = "不能为空"
OTHERWISE = "取值无效"


def chinese(broken: Violation, limits: Mapping[str, Any]) -> str:
    """What is wrong with a field.

    `limits` are what its rules allow, as JSON schema names them; `shortest` among them is what the
    dialect's own rules demand of a password.
    """
    if broken.rule == "string.min_len" and limits.get("minLength") == 1:
        return EMPTY
    words = WORDS.get(f"{broken.field} {broken.rule}") or WORDS.get(broken.rule, OTHERWISE)
    shortest = {"minLength": limits["shortest"]} if "shortest" in limits else {}
    try:
        return words.format_map({**limits, **shortest})
    except KeyError:  # the field has no such limit
        return OTHERWISE
