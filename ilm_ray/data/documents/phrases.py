"""Short phrases that the rules look for: words that every running text has, and phrases of boilerplate."""

import functools

import numpy as np

from ilm_ray.data.documents.codepoints import flatten
from ilm_ray.data.documents.language import tokens
from ilm_ray.data.documents.repetition import hash_phrase
from ilm_ray.data.documents.scan import hash_token

# Gopher's list (Rae et al. 2021, appendix A1.1).
STOP_WORDS_EN = ("the", "be", "to", "of", "and", "that", "have", "with")
# Ours: function characters of modern Chinese, and of the older written language.
STOP_WORDS_ZH = tuple("的了是在有和不我他这一也就人之以而其")

BOILERPLATE = """
lorem ipsum | dolor sit amet | consectetur adipiscing elit | sed do eiusmod tempor | ut labore et dolore
quis nostrud exercitation | duis aute irure | excepteur sint occaecat | praesent sapien
all rights reserved | privacy policy | terms of service | terms of use | terms and conditions | cookie policy
uses cookies | use cookies | accept cookies | your browser does not support | enable javascript | javascript is disabled
javascript must be enabled | javascript is required | javascript enabled | powered by wordpress | proudly powered by
skip to content | skip to main content | back to top | sign up for our newsletter | subscribe to our newsletter
page not found | 404 not found | access denied | add to cart | forgot your password | under construction
版权所有 | 未经许可 | 未经授权 | 不得转载 | 请勿转载 | 备案号 | icp备 | 公网安备 | 免责声明 | 隐私政策 | 服务条款
使用条款 | 网站地图 | 联系我们 | 关于我们 | 友情链接 | 加入收藏 | 返回顶部 | 扫一扫 | 分享到 | 上一篇 | 下一篇
扫描二维码 | 下载app | 浏览器不支持 | 启用javascript | 举报电话 | 违法和不良信息 | 责任编辑 | 技术支持 | 设为首页
"""


def boilerplate() -> list[str]:
    """Phrases that mark a line as part of a site, not of a text; both languages."""
    return [phrase.strip() for line in BOILERPLATE.strip().split("\n") for phrase in line.split("|")]


@functools.lru_cache(maxsize=1)
def phrase_table() -> tuple[np.ndarray, np.ndarray]:
    """(sorted uint64 hashes, int64 meanings): one bit for a stop word (English ones first), 0 for boilerplate."""
    meanings: dict[tuple[str, ...], int] = {(word,): 1 << bit for bit, word in enumerate(STOP_WORDS_EN + STOP_WORDS_ZH)}
    meanings |= {tuple(tokens(phrase)): 0 for phrase in boilerplate()}
    keys = np.array(
        [hash_phrase([hash_token(flatten([word])[0]) for word in phrase]) for phrase in meanings], np.uint64
    )
    order = np.argsort(keys)
    return keys[order], np.array(list(meanings.values()), np.int64)[order]
