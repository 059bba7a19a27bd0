"""Lines that no author of a text wrote: buttons, counters, and notices on cookies and scripts.

A line is judged by its speaker and its addressee: "this site uses cookies", "please enable JavaScript" are the site's
own words, "the server uses a session cookie" and "if JavaScript is disabled, the form still works" are somebody's text.
"""

import re

_CHROME = frozenset(
    """
advertisement|advertisements|all rights reserved|all rights reserved.|accept cookies|accept all cookies
back to top|click here|click to enlarge|continue reading|continue reading...|cookie policy|email this|follow us
follow us on facebook|follow us on twitter|learn more|leave a comment|leave a reply|like loading...|like this:
load more|loading...|loading…|log in|log in to reply|next|next »|pin it|post a comment|previous|print this page
privacy policy|read more|read more »|read more...|read more…|register|related articles|related posts|reply
report abuse|see more|share|share on facebook|share on twitter|share this|share this:|share via email|show more
sign in|sign up|skip to content|skip to main content|skip to navigation|sponsored content|subscribe
terms of service|terms of use|top of page|tweet|you may also like|« previous|分享|分享到|分享到：|分享到:
阅读全文|查看更多|加载更多|展开全文|点击查看|上一篇|下一篇|返回顶部|返回首页|回到顶部|加入收藏|设为首页|打印
打印本页|关闭窗口|【关闭】|【打印】|我要评论|发表评论|登录|注册|登录注册|版权所有|责任编辑|相关阅读|相关新闻
推荐阅读|扫一扫
""".strip()
    .replace("\n", "|")
    .split("|")
)
_COUNTER = re.compile(
    r"(?:\d[\d,.]*[km]?\+?) (?:likes?|shares?|views?|comments?|replies|retweets|followers|tweets?)"
    r"|(?:likes?|shares?|views?|comments?|阅读|评论|点赞|浏览|转发|收藏|人气)[:：]? ?\(?\d[\d,.]*[km万]?\)?"
    r"|\d[\d,.]*万?(?:次阅读|次浏览|条评论|人阅读|人评论|个赞)"
)
_SITE = "(?:web ?site|site|web ?page|page|blog|store|shop|portal|app|application|service|platform|forum)"
_USES = "(?:also |may |only |will )?(?:uses?|sets?|stores?|places?|utili[sz]es?|employs?)"
_COOKIES = r"(?:[\w-]+,? ){0,4}cookies\b"
_COOKIE_NOTICE = re.compile(
    rf"\b(?:this|our) {_SITE},? {_USES} {_COOKIES}|\b(?:this|our) {_SITE} (?:requires?|needs?) {_COOKIES}"
    rf"|\bwe (?:and our (?:partners|affiliates|vendors|third)|value your privacy)\b.*\bcookies\b"
    rf"|\bwe {_USES} {_COOKIES}[.!]?$"
    r"|\byou (?:agree|consent) to\b.*\bcookies?\b|\byou accept (?:our|the use of|the placement of)\b.*\bcookies?\b"
    r"|\bby (?:continuing|closing|clicking|browsing|visiting)\b.*\b(?:agree|accept|consent)\b.*\bcookies?\b"
    rf"|\bcontinue (?:to use|using|browsing|to browse)\b.*\bcookies\b|\bour use of cookies\b"
    r"|\bcookies (?:help|allow|enable) us\b|\bcookies are used (?:on|by) (?:this|our)\b"
    r"|\bplease (?:enable|accept|allow) cookies"
    r"|\byour browser (?:does not|doesn't|has|must)\b.*\bcookies\b"
    r"|(?:本|此|我们的?)(?:网?站|网页|页面|平台|产品|应用).{0,12}(?:使用|采用|利用|存储|需要|启用).{0,8}cookies?"
    r"|我们(?:会|将|可能|还|需要)?(?:使用|采用|利用|通过).{0,8}cookies?.*(?:体验|服务|同意|隐私|偏好|流量|广告|浏览)"
    r"|(?:继续|点击|使用本|浏览本|访问本).*(?:同意|接受|允许).{0,20}cookies?"
    r"|(?:同意|接受).{0,10}(?:我们|本站|本网站|网站).{0,10}cookies?"
)
_WE_USE_COOKIES = re.compile(rf"\bwe {_USES} {_COOKIES}")
_PURPOSE = re.compile(
    r"\byour (?:[\w-]+ ){0,2}(?:experience|visit|preferences|browser|device|consent)|\b(?:best|user"
    r"|browsing) experience"
    r"|\bbest possible|\bon (?:this|our)\b|\bour (?:web ?site|site|traffic|services?|partners|visitors"
    r"|users|policy|privacy)"
    r"|\bprivacy policy|\bcookie (?:policy|notice|settings)|\b(?:site|web) traffic|\b(?:learn|find out|read) more"
    r"|\bmore information|\bpersonali[sz]|\badvertis|\bthird.part"
)
_COOKIE_BUTTON = re.compile(
    r"(?:please )?(?:accept|allow|reject|decline|refuse|deny|manage|enable|agree to)"
    r"(?: (?:all|the|only|necessary|essential|non-essential|optional|our))* cookies?(?: (?:settings"
    r"|preferences|policy))?[.!]?"
    r"|cookies? (?:settings|preferences|policy|notice|consent|banner|declaration|statement|information)[.!]?"
    r"|use of cookies[.!]?|(?:privacy|your privacy) (?:and|&) cookies"
    r"|(?:接受|同意|允许|拒绝|管理|关于)(?:所有|全部|必要)?的? ?cookies? ?(?:政策|设置|声明)?"
    r"|cookies? ?(?:政策|设置|声明|偏好|通知)"
)
_SCRIPT_REQUEST = re.compile(
    r"(?:\bplease|\byou (?:must|need to|have to|should|will need to)|\byou'll need to"
    r"|\bto (?:use|view|see|watch|continue|enjoy|access|run|get|post|comment)\b[^,]*,) (?:please )?"
    r"(?:enable|activate|turn on|switch on|allow) (?:cookies and )?javascript"
    rf"|\b(?:this|our) (?:{_SITE}|feature|video|player|form|map|content)\b.{{0,30}}(?:requires?|needs?"
    rf"|works best with) javascript"
    r"|\byour browser\b.*(?:not|n't|off|disabled|blocked).*javascript"
    r"|\byour browser has javascript (?:disabled|turned off)"
    r"|(?<!if )(?<!when )(?<!where )(?<!unless )\bjavascript (?:is|seems to be|appears to be|must be"
    r"|needs to be|has to be|should be)"
    r" (?:currently |not )?(?:enabled|disabled|required|turned o(?:n|ff)|blocked)\b[^,;]*"
    rf"\b(?:your browser|this {_SITE}|this feature|to (?:view|use|see|continue|post|comment))"
    r"|\bdoes(?: not|n't) work (?:properly )?without javascript\b"
    r"|(?:请|您?需要).{0,12}(?:启用|开启|打开|允许).{0,6}javascript(?: ?(?:支持|功能|脚本))?"
    r"(?:$|[，。！,.!]| ?(?:后|以|才|来|并|再))"
    r"|浏览器.{0,12}(?:不支持|禁用|未启用|没有启用|关闭).{0,6}javascript"
)
_SCRIPT_BUTTON = re.compile(
    r"(?:please )?(?:enable|activate|turn on) javascript[.!]*|javascript ?(?:已|被|未)被?(?:禁用|启用|关闭)[。！]?"
    r"|javascript (?:is|must be|has been) (?:required|disabled|enabled|not enabled|turned off)[.!]*"
)


def is_chrome(line: str) -> bool:
    """Whether the site wrote this line, and not the text's author. `line`: lower case, a hundred characters or so."""
    if line in _CHROME:
        return True
    if "cookie" in line and (_COOKIE_NOTICE.search(line) or _COOKIE_BUTTON.fullmatch(line)):
        return True
    if "cookie" in line and _WE_USE_COOKIES.search(line) and _PURPOSE.search(line):
        return True
    if "javascript" in line and (_SCRIPT_REQUEST.search(line) or _SCRIPT_BUTTON.fullmatch(line)):
        return True
    return len(line) < 30 and _COUNTER.fullmatch(line) is not None
